//! What the log says of deliveries.

use jiff::Timestamp;
use smol_str::SmolStr;

use super::{
    observer::{Observer, ProxyConnection},
    row::origins_of,
};
use crate::{
    sparse_log::{FEW, MANY, SparseLog},
    xds::session::Event,
};

/// How many names of a list are written out.
const SHOWN: usize = 10;

/// Writes to the log: less of callers who have proven nothing, who may say what they like.
#[derive(Debug)]
pub(super) struct Log;

/// What is written of refusals and of rollouts that go on without an ACK.
struct Lines {
    refused: SparseLog,
    late: SparseLog,
}

static OF_PROVEN: Lines = Lines { refused: SparseLog::new(MANY), late: SparseLog::new(MANY) };
static OF_OTHERS: Lines = Lines { refused: SparseLog::new(FEW), late: SparseLog::new(FEW) };

impl Observer for Log {
    fn recorded(&self, connection: &ProxyConnection, event: &Event, _: Timestamp) {
        let (proxy, proven) = (&connection.proxy, connection.proven);
        let lines = if proven { &OF_PROVEN } else { &OF_OTHERS };
        match event {
            Event::Sent { kind, nonce, resources, removed, bytes, .. } => {
                tracing::debug!(%proxy, r#type = kind.as_str(), nonce, resources, removed, bytes, "sent");
            }
            Event::Rejected { kind, error, refused, suspects, .. } => lines.refused.write(|left_out| {
                let resources: Vec<SmolStr> = refused.iter().chain(suspects).map(|resource| resource.name.clone()).collect();
                // Whoever has proven nothing could blame any object.
                let blamed = refused.iter().chain(suspects).filter(|_| proven);
                let objects: Vec<String> = origins_of(blamed).iter().map(|origin| origin.object.to_string()).collect();
                tracing::warn!(
                    %proxy,
                    r#type = kind.as_str(),
                    proven,
                    found = !refused.is_empty(),
                    resources = listed(&resources),
                    objects = listed(&objects),
                    %error,
                    left_out,
                    "the proxy refused configuration"
                );
            }),
            Event::GateOpened { kind, awaited } => lines.late.write(|left_out| {
                let awaited = listed(awaited);
                tracing::warn!(%proxy, r#type = kind.as_str(), awaited, left_out, "no ACK before the deadline: the rollout goes on");
            }),
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
