//! Patches of clusters.

use envoy_types::pb::{
    envoy::config::{
        cluster::v3::Cluster,
        core::v3::{TransportSocket, transport_socket::ConfigType},
    },
    google::protobuf::Any,
};

use super::{
    merge::merge_any,
    run::{Patched, Run, Step},
};
use crate::mesh::{
    envoy_filter::{ApplyTo, PatchOperation},
    policy::envoy_filter::Patches,
};

/// Applies patches that are for a cluster.
pub fn cluster(mut message: Cluster, patches: &Patches) -> Patched<Cluster> {
    let mut run = Run::of(patches);
    for step in run.steps(ApplyTo::Cluster) {
        match step.patch.operation {
            PatchOperation::Remove => {
                run.applied(step);
                return run.end(None);
            }
            PatchOperation::Merge => merge(&mut run, step, &mut message),
            _ => {}
        }
    }
    run.end(Some(message))
}

fn merge(run: &mut Run<'_>, step: Step<'_>, message: &mut Cluster) {
    let Some(value) = run.value::<Cluster>(step) else { return };
    match value.transport_socket {
        Some(socket) => merge_socket(run, step, message, socket),
        None => run.merge_named(step, message, |cluster| &cluster.name),
    }
}

/// Merges a transport socket into that of the cluster. As in istiod, nothing else of such a patch counts.
fn merge_socket(run: &mut Run<'_>, step: Step<'_>, message: &mut Cluster, socket: TransportSocket) {
    let has_name = |known: &&mut TransportSocket| known.name == socket.name;
    let has_matches = !message.transport_socket_matches.is_empty();
    let known = match has_matches {
        true => message.transport_socket_matches.iter_mut().filter_map(|of| of.transport_socket.as_mut()).find(has_name),
        false => message.transport_socket.as_mut().filter(has_name),
    };
    let made = match known {
        Some(known) => merge_config(known, &socket),
        None if has_matches => Err(format!("endpoints choose among transport sockets of which none is {}", socket.name)),
        None => {
            message.transport_socket = Some(socket);
            Ok(())
        }
    };
    match made {
        Ok(()) => run.applied(step),
        Err(why) => run.failed(step, why),
    }
}

/// Merges the configuration of a transport socket into that of one of the same name.
pub(super) fn merge_config(into: &mut TransportSocket, from: &TransportSocket) -> Result<(), String> {
    let config = |socket: &TransportSocket| -> Option<Any> {
        let Some(ConfigType::TypedConfig(config)) = &socket.config_type else { return None };
        Some(config.clone())
    };
    if let (Some(own), Some(other)) = (config(into), config(from)) {
        into.config_type = Some(ConfigType::TypedConfig(merge_any(&own, &other)?));
    }
    Ok(())
}
