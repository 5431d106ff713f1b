//! What the log says of deliveries.

use jiff::Timestamp;
use smol_str::SmolStr;

use super::{
    observer::{Observer, ProxyConnection},
    row::origins_of,
};
use crate::xds::session::Event;

/// How many names of a list are written out.
const SHOWN: usize = 10;

/// Writes to the log.
#[derive(Debug)]
pub(super) struct Log;

impl Observer for Log {
    fn recorded(&self, connection: &ProxyConnection, event: &Event, _: Timestamp) {
        let proxy = &connection.proxy;
        match event {
            Event::Sent { kind, nonce, resources, removed, bytes, .. } => {
                tracing::debug!(%proxy, r#type = kind.as_str(), nonce, resources, removed, bytes, "sent");
            }
            Event::Rejected { kind, error, refused, suspects, .. } => {
                let resources: Vec<SmolStr> = refused.iter().chain(suspects).map(|resource| resource.name.clone()).collect();
                // Whoever has proven nothing could blame any object.
                let blamed = refused.iter().chain(suspects).filter(|_| connection.proven);
                let objects: Vec<String> = origins_of(blamed).iter().map(|origin| origin.object.to_string()).collect();
                tracing::warn!(
                    %proxy,
                    r#type = kind.as_str(),
                    proven = connection.proven,
                    found = !refused.is_empty(),
                    resources = listed(&resources),
                    objects = listed(&objects),
                    %error,
                    "the proxy refused configuration"
                );
            }
            Event::GateOpened { kind, awaited } => {
                let awaited = listed(awaited);
                tracing::warn!(%proxy, r#type = kind.as_str(), awaited, "no ACK before the deadline: the rollout goes on");
            }
            _ => {}
        }
    }
}

/// Returns the first few of a list, and how many more there are.
fn listed<T: AsRef<str>>(items: &[T]) -> String {
    let shown: Vec<_> = items.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = items.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["x"; 12]), format!("{} and 2 more", ["x"; 10].join(", ")));
    }
}
