# Keys and configuration of the daemons. Sourced by `inside`.

keys=$state/keys

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$keys/$1.key"; }

certificate() { # name, subject, extensions
  key "$1"
  openssl req -new -key "$keys/$1.key" -subj "$2" |
    openssl x509 -req -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -set_serial $RANDOM -days 30 -extfile <(echo "$3") -out "$keys/$1.crt" 2>/dev/null
}

kubeconfig() { # file, token
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: box
contexts: [{name: box, context: {cluster: box, user: me}}]
clusters: [{name: box, cluster: {server: "$api", certificate-authority-data: $(base64 -w0 "$keys/ca.crt")}}]
users: [{name: me, user: {token: $2}}]
YAML
}

key ca
openssl req -x509 -new -key $keys/ca.key -subj /CN=box -days 30 -out $keys/ca.crt
certificate api /CN=kube-apiserver "extendedKeyUsage=serverAuth
subjectAltName=IP:127.0.0.1,IP:$address,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
certificate kubelet /O=system:masters/CN=apiserver extendedKeyUsage=clientAuth
openssl genrsa -out $keys/accounts.key 2048 2>/dev/null

cat >$keys/tokens.csv <<CSV
admin-token,admin,1,system:masters
controllers-token,system:kube-controller-manager,2
scheduler-token,system:kube-scheduler,3
proxy-token,system:kube-proxy,4
node-token,system:node:$node,5,system:nodes
CSV
kubeconfig "$folder/kubeconfig" admin-token
for who in controllers scheduler proxy node; do kubeconfig $state/config/$who.kubeconfig $who-token; done
export KUBECONFIG=$folder/kubeconfig

# restrict_oom_score_adj: root of a machine without CAP_SYS_RESOURCE cannot lower it for the pause container.
cat >$state/config/containerd.toml <<TOML
version = 2
root = "$state/containerd"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "box.local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/config/cni"
TOML

mkdir $state/config/cni
cat >$state/config/cni/10-box.conflist <<JSON
{"cniVersion": "0.4.0", "name": "box", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods", "rangeStart": "10.244.0.10"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON

echo "nameserver $dns" >$state/config/resolv.conf
cat >$state/config/kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$box_cgroup
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: $address
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $keys/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $state/config/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
YAML

# The conntrack settings cannot be written in a network namespace that is not the machine's.
cat >$state/config/kube-proxy.yaml <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $state/config/proxy.kubeconfig}
hostnameOverride: $node
clusterCIDR: $pods
bindAddress: $address
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
