//! `istio.io/debug*` over ADS: what istioctl asks a control plane (contract §1.3). Nothing is watched: each request is
//! answered once.

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::ControlPlane,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
    },
    google::protobuf::Any,
};
use prost::Message;
use smol_str::SmolStr;
use tonic::Status;

use super::codec::Form;
use crate::mesh::model::Caller;

/// The type that asks for one page of `/debug`.
const PAGE: &str = "istio.io/debug";
/// The type that asks how far all proxies are.
const SYNC_STATUS: &str = "istio.io/debug/syncz";
/// The type that asks what one proxy has.
const CONFIG_DUMP: &str = "istio.io/debug/config_dump";

/// The pages that callers outside the system namespace may see, of their own proxies.
const OPEN_PAGES: [&str; 3] = ["config_dump", "ndsz", "edsz"];

/// How much a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Everything.
    All,
    /// The proxies of one namespace.
    Namespace(SmolStr),
}

/// Shows what a control plane knows.
pub trait Inspector: Send + Sync {
    /// Returns the namespace whose identities see everything.
    fn system_namespace(&self) -> SmolStr;

    /// Returns one page of `/debug`, as the HTTP port would answer it, refusals included. `path` has its query.
    fn page(&self, path: &str, viewer: &Viewer) -> Vec<u8>;

    /// Returns the `envoy.service.status.v3.ClientConfig` of each proxy that tools list.
    fn sync_status(&self, viewer: &Viewer) -> Vec<Any>;

    /// Returns the sections of an Envoy's config dump for the proxy `pod.namespace`; none when it is not connected.
    fn config_dump(&self, proxy: &str, viewer: &Viewer) -> Vec<Any>;

    /// Returns who answers, as JSON, for `control_plane.identifier`.
    fn instance(&self) -> String;
}

/// What is sent back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    resources: Vec<(String, Any)>,
    instance: Option<String>,
}

impl Viewer {
    /// Returns what an identity of `namespace` may see.
    pub fn of(namespace: &str, system_namespace: &str) -> Self {
        if namespace == system_namespace { Self::All } else { Self::Namespace(namespace.into()) }
    }

    /// Returns whether proxies of `namespace` are shown.
    pub fn sees(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => own == namespace,
        }
    }

    /// Returns whether a page of `/debug` is shown at all. `page` is its name without a query.
    pub fn may_open(&self, page: &str) -> bool {
        *self == Self::All || OPEN_PAGES.contains(&page)
    }
}

/// Returns whether requests for a type are answered here.
pub(super) fn is_debug(type_url: &str) -> bool {
    type_url == PAGE || type_url.starts_with("istio.io/debug/")
}

/// Answers one request.
pub(super) fn answer(inspector: &dyn Inspector, caller: &Caller, type_url: &str, names: &[String]) -> Result<Answer, Status> {
    let identity = match caller {
        Caller::Workload(identity) => identity,
        Caller::Remote { cluster, .. } => {
            return Err(Status::permission_denied(format!("callers of remote cluster {cluster} see nothing of this one")));
        }
        Caller::Anonymous => return Err(Status::unauthenticated("authentication required")),
    };
    let viewer = Viewer::of(&identity.namespace, &inspector.system_namespace());
    match (type_url, names) {
        (SYNC_STATUS, _) => {
            let resources = inspector.sync_status(&viewer).into_iter().map(unnamed).collect();
            Ok(Answer { resources, instance: Some(inspector.instance()) })
        }
        (CONFIG_DUMP, [proxy]) => {
            let resources = inspector.config_dump(proxy, &viewer).into_iter().map(unnamed).collect();
            Ok(Answer { resources, instance: None })
        }
        (PAGE, [path]) => page(inspector, &identity.to_string(), path, &viewer),
        (PAGE, _) => Err(Status::invalid_argument("exactly one debug request is required")),
        _ => Ok(Answer::default()),
    }
}

fn page(inspector: &dyn Inspector, identity: &str, path: &str, viewer: &Viewer) -> Result<Answer, Status> {
    let name = path.split('?').next().unwrap_or_default();
    if !viewer.may_open(name) {
        return Err(Status::permission_denied(format!("the debug info is not available for current identity: {identity:?}")));
    }
    let value = inspector.page(path, viewer);
    Ok(Answer { resources: vec![(path.to_owned(), Any { type_url: PAGE.into(), value })], instance: None })
}

fn unnamed(resource: Any) -> (String, Any) {
    (String::new(), resource)
}

impl Answer {
    /// Encodes the response message in one of the two protocols.
    pub(super) fn encode(self, form: Form, type_url: &str, nonce: String) -> Bytes {
        let control_plane = self.instance.map(|identifier| ControlPlane { identifier });
        let type_url = type_url.to_owned();
        match form {
            Form::Sotw => {
                let resources = self.resources.into_iter().map(|(_, any)| any).collect();
                let response = DiscoveryResponse { resources, type_url, nonce, control_plane, ..DiscoveryResponse::default() };
                response.encode_to_vec().into()
            }
            Form::Delta => {
                let resource = |(name, any)| Resource { name, resource: Some(any), ..Resource::default() };
                let resources = self.resources.into_iter().map(resource).collect();
                let response = DeltaDiscoveryResponse { resources, type_url, nonce, control_plane, ..DeltaDiscoveryResponse::default() };
                response.encode_to_vec().into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::model::SpiffeId;

    struct Shows;

    impl Inspector for Shows {
        fn system_namespace(&self) -> SmolStr {
            "istio-system".into()
        }

        fn page(&self, path: &str, viewer: &Viewer) -> Vec<u8> {
            format!("{path} for {viewer:?}").into()
        }

        fn sync_status(&self, viewer: &Viewer) -> Vec<Any> {
            vec![Any { type_url: format!("{viewer:?}"), value: Vec::new() }]
        }

        fn config_dump(&self, proxy: &str, _: &Viewer) -> Vec<Any> {
            vec![Any { type_url: proxy.into(), value: Vec::new() }]
        }

        fn instance(&self) -> String {
            "us".into()
        }
    }

    fn caller(namespace: &str) -> Caller {
        Caller::Workload(SpiffeId { trust_domain: "td".into(), namespace: namespace.into(), service_account: "default".into() })
    }

    fn ask(caller: &Caller, type_url: &str, names: &[&str]) -> Result<Answer, tonic::Code> {
        let names: Vec<String> = names.iter().copied().map(String::from).collect();
        answer(&Shows, caller, type_url, &names).map_err(|status| status.code())
    }

    #[test]
    fn only_who_is_known_is_answered_and_only_the_system_namespace_sees_all() {
        let (system, shop) = (caller("istio-system"), caller("shop"));
        assert_eq!(ask(&Caller::Anonymous, SYNC_STATUS, &[]).unwrap_err(), tonic::Code::Unauthenticated);
        let Caller::Workload(identity) = caller("istio-system") else { panic!("no workload") };
        let there = Caller::Remote { identity, cluster: "east".into() };
        assert_eq!(ask(&there, SYNC_STATUS, &[]).unwrap_err(), tonic::Code::PermissionDenied);
        assert_eq!(ask(&system, PAGE, &[]).unwrap_err(), tonic::Code::InvalidArgument);
        assert_eq!(ask(&shop, PAGE, &["syncz"]).unwrap_err(), tonic::Code::PermissionDenied);
        let open = ask(&shop, PAGE, &["edsz?proxyID=a.shop"]).unwrap();
        assert_eq!(open.resources[0].1.value, br#"edsz?proxyID=a.shop for Namespace("shop")"#);
        assert_eq!(ask(&system, PAGE, &["syncz"]).unwrap().resources[0].1.value, b"syncz for All");
        assert_eq!(ask(&shop, SYNC_STATUS, &[]).unwrap().resources[0].1.type_url, r#"Namespace("shop")"#);
        assert!(ask(&system, CONFIG_DUMP, &["a.shop", "b.shop"]).unwrap().resources.is_empty());
    }

    #[test]
    fn the_instance_is_named_with_the_sync_status_alone() {
        let system = caller("istio-system");
        let status = ask(&system, SYNC_STATUS, &[]).unwrap().encode(Form::Sotw, SYNC_STATUS, "1".into());
        let status = DiscoveryResponse::decode(status).unwrap();
        assert_eq!((status.control_plane.unwrap().identifier.as_str(), status.nonce.as_str()), ("us", "1"));
        let dump = ask(&system, CONFIG_DUMP, &["a.shop"]).unwrap().encode(Form::Delta, CONFIG_DUMP, "2".into());
        let dump = DeltaDiscoveryResponse::decode(dump).unwrap();
        assert_eq!((dump.control_plane, dump.resources[0].resource.as_ref().unwrap().type_url.as_str()), (None, "a.shop"));
    }
}
