//! Whose token it is: a caller says in which cluster it is (`clusterid`), and the token is checked there and nowhere else (contract
//! §4.2, §9).
//!
//! The header is a caller's claim, and decides only who is asked. What is proven is an identity *of that cluster*.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use jiff::Timestamp;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::{AuthenticationError, TokenVerifier};
use crate::{identity::proof::Proven, peer_text::PeerText};

const CLUSTER_ID: &str = "clusterid";
/// How many clusters the log names to a caller of none of them.
const NAMED: usize = 20;

/// Who checks the tokens of each remote cluster, by its id.
pub type RemoteClusters = BTreeMap<SmolStr, Arc<dyn TokenVerifier>>;

/// Our own cluster, and those whose callers are known, too.
pub struct Clusters {
    /// Our own id.
    pub own: SmolStr,
    /// Other names of clusters (`--clusterAliases`), each with the id that it stands for.
    pub aliases: BTreeMap<SmolStr, SmolStr>,
    /// Checks tokens of our own cluster.
    pub tokens: Arc<dyn TokenVerifier>,
    /// The remote ones; `None` until they are known.
    pub remote: watch::Receiver<Option<Arc<RemoteClusters>>>,
}

// === impl Clusters ===

impl Clusters {
    /// Returns who is calling, by a token of the cluster that its headers name; without a name ours is meant.
    pub(super) async fn verify(&self, headers: &HeaderMap, token: &str, now: Timestamp) -> Result<Proven, AuthenticationError> {
        let named = named(headers)?;
        if named.is_empty() || is_own(named, &self.own, &self.aliases) {
            return self.tokens.verify(token, now).await.map_err(AuthenticationError::Token);
        }
        let remote = self.known()?;
        let alias = self.aliases.get(named).map(SmolStr::as_str);
        let found = [Some(named), alias].into_iter().flatten().find_map(|id| remote.get_key_value(id));
        let (id, tokens) = found.ok_or_else(|| self.unknown(named, &remote))?;
        let proven = tokens.verify(token, now).await.map_err(AuthenticationError::Token)?;
        Ok(Proven { remote_cluster: Some(id.clone()), ..proven })
    }

    /// Checks that a remote cluster still belongs to the mesh.
    pub(super) fn check(&self, id: &str) -> Result<(), AuthenticationError> {
        let remote = self.known()?;
        if remote.contains_key(id) { Ok(()) } else { Err(self.unknown(id, &remote)) }
    }

    fn known(&self) -> Result<Arc<RemoteClusters>, AuthenticationError> {
        self.remote.borrow().clone().ok_or(AuthenticationError::ClustersUnread)
    }

    fn unknown(&self, asked: &str, remote: &RemoteClusters) -> AuthenticationError {
        let names: Vec<&str> = remote.keys().take(NAMED).map(SmolStr::as_str).collect();
        AuthenticationError::UnknownCluster { asked: PeerText::new(asked), own: self.own.clone(), remote: names.join(", ") }
    }
}

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clusters").field("own", &self.own).field("aliases", &self.aliases).finish_non_exhaustive()
    }
}

/// Returns whether a name is that of the cluster `own`, or an alias of it.
pub fn is_own(name: &str, own: &str, aliases: &BTreeMap<SmolStr, SmolStr>) -> bool {
    name == own || aliases.get(name).is_some_and(|id| id == own)
}

/// Returns the cluster that a caller names; as for istiod, several are none.
fn named(headers: &HeaderMap) -> Result<&str, AuthenticationError> {
    let mut values = headers.get_all(CLUSTER_ID).iter();
    match (values.next(), values.next()) {
        (Some(name), None) => name.to_str().map_err(|_| AuthenticationError::ClusterName),
        _ => Ok(""),
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use http::{HeaderValue, header::AUTHORIZATION};

    use super::*;
    use crate::{
        identity::{
            authenticate::{Authenticator, PeerCertificate},
            ca::{CertificateHolder, IssuePolicy, SelfSigned, Serial},
            key::{KeyType, PrivateKey},
            proof::Proof,
            token::TokenError,
        },
        mesh::model::{Caller, SpiffeId},
    };

    /// Knows one token, and is away when asked about the token `away`.
    struct Knows(&'static str);

    impl TokenVerifier for Knows {
        fn verify<'a>(&'a self, token: &'a str, _: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>> {
            Box::pin(async move {
                match token {
                    "away" => Err(TokenError::Unavailable("away".into())),
                    token if token == self.0 => Ok(Proven::new(cart(), Proof::TokenReview)),
                    _ => Err(TokenError::Signature),
                }
            })
        }
    }

    fn cart() -> SpiffeId {
        SpiffeId::parse("spiffe://td/ns/shop/sa/cart").unwrap()
    }

    fn remote() -> RemoteClusters {
        let tokens = |token| Arc::new(Knows(token)) as Arc<dyn TokenVerifier>;
        [("east".into(), tokens("of east")), ("west".into(), tokens("of west"))].into()
    }

    fn authenticator() -> (Authenticator, watch::Sender<Option<Arc<RemoteClusters>>>) {
        let (sender, receiver) = watch::channel(Some(Arc::new(remote())));
        let aliases = [("home", "here"), ("orient", "east"), ("west", "nowhere")].map(|(alias, id)| (alias.into(), id.into())).into();
        let clusters = Clusters { own: "here".into(), aliases, tokens: Arc::new(Knows("of here")), remote: receiver };
        (Authenticator::new("td", Vec::new(), Arc::new(Timestamp::now)).with_clusters(clusters), sender)
    }

    fn headers(cluster: &[&str], token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        cluster.iter().for_each(|name| _ = headers.append(CLUSTER_ID, HeaderValue::from_bytes(name.as_bytes()).unwrap()));
        headers
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_own_cluster_alone() {
        let (authenticator, _clusters) = authenticator();
        let ask = async |cluster: &[&str], token| authenticator.authenticate(&headers(cluster, token), None).await;
        for own in [&[][..], &[""], &["here"], &["home"], &["east", "west"]] {
            assert_eq!(ask(own, "of here").await.unwrap().remote_cluster, None, "{own:?}");
            assert!(ask(own, "of east").await.is_err(), "{own:?}");
        }
        for (named, id, token) in [("east", "east", "of east"), ("orient", "east", "of east"), ("west", "west", "of west")] {
            let proven = ask(&[named], token).await.unwrap();
            assert_eq!(proven.remote_cluster.as_deref(), Some(id));
            assert_eq!(proven.caller(), Caller::Remote { identity: cart(), cluster: id.into() });
            for other in ["of here", "of east", "of west"].into_iter().filter(|other| *other != token) {
                let refused = ask(&[named], other).await.unwrap_err();
                assert!(matches!(refused, AuthenticationError::Token(TokenError::Signature)), "{named} {other}: {refused}");
            }
        }
    }

    #[tokio::test]
    async fn a_cluster_that_nobody_knows_is_named_and_one_that_is_away_may_be_asked_again() {
        let (authenticator, clusters) = authenticator();
        let ask = async |cluster: &[&str], token| authenticator.authenticate(&headers(cluster, token), None).await.unwrap_err();
        let unknown = ask(&["north"], "of east").await;
        let said = unknown.to_string();
        assert!(!unknown.is_temporary() && said.contains("north") && said.contains("here") && said.contains("east, west"), "{said}");
        assert!(matches!(ask(&["n\u{f6}rd"], "of east").await, AuthenticationError::ClusterName));
        assert!(ask(&["east"], "away").await.is_temporary());
        clusters.send_replace(Some(Arc::default()));
        assert!(!ask(&["east"], "of east").await.is_temporary());
        // Until the Secrets are read, nobody can say.
        clusters.send_replace(None);
        assert!(ask(&["east"], "of east").await.is_temporary());
        assert!(authenticator.authenticate(&headers(&["here"], "of here"), None).await.is_ok());
    }

    #[tokio::test]
    async fn a_certificate_says_of_which_remote_cluster_its_holder_is_as_long_as_that_is_known() {
        let now = Timestamp::now();
        let ca = SelfSigned::new("td").generate(now).unwrap();
        let ca = crate::identity::ca::load_self_signed("a test", &ca, now).unwrap();
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(key.pair()).unwrap().pem().unwrap();
        let signed = |remote_cluster| {
            let (identity, policy) = (cart(), IssuePolicy::default());
            let holder = CertificateHolder { identity: &identity, remote_cluster };
            let issued = ca.issue(&request, holder, 0, &policy, now, Serial::random().unwrap()).unwrap();
            PeerCertificate::from_verified_der(issued.leaf_der()).unwrap()
        };
        let (authenticator, clusters) = authenticator();
        let ask = async |peer: &PeerCertificate| authenticator.authenticate(&HeaderMap::new(), Some(peer)).await;
        let longest = "w".repeat(253);
        let (own, east, long) = (signed(None), signed(Some("east")), signed(Some(&longest)));
        assert_eq!(ask(&own).await.unwrap().remote_cluster, None);
        assert_eq!(ask(&east).await.unwrap().remote_cluster.as_deref(), Some("east"));
        assert!(matches!(ask(&long).await.unwrap_err(), AuthenticationError::UnknownCluster { .. }));
        clusters.send_replace(Some(Arc::new([(longest.as_str().into(), remote().remove("east").unwrap())].into())));
        assert_eq!(ask(&long).await.unwrap().remote_cluster.as_deref(), Some(longest.as_str()));
        assert!(matches!(ask(&east).await.unwrap_err(), AuthenticationError::UnknownCluster { .. }));
        assert!(ask(&own).await.is_ok());
        // Who knows no remote cluster takes the certificate for nobody's.
        let alone = Authenticator::new("td", Vec::new(), Arc::new(Timestamp::now));
        assert!(alone.authenticate(&HeaderMap::new(), Some(&east)).await.is_err());
        assert!(alone.authenticate(&HeaderMap::new(), Some(&own)).await.is_ok());
    }
}
