//! Endpoints that are not ready: whether they are sent, and how.
//!
//! A service whose endpoints are all unready at once is mostly one whose probes time out, not one that is gone. So
//! proxies know of such endpoints: while there are others they get no traffic, and when none is left Envoy gives it to
//! all (its panic routing).

use crate::mesh::{
    model::{Endpoint, Health, Registry, Service, TrafficDistribution},
    settings::MeshSettings,
    traffic::PortPolicy,
};

/// What becomes of the unready endpoints of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::translate) enum Unready {
    /// They are left out.
    LeftOut,
    /// They are sent as unhealthy.
    Unhealthy,
    /// As before, but when none is ready all are sent as if they were: the cluster has no panic routing.
    ServeWhenAllAre,
    /// They are sent as unhealthy when none is ready, and left out else.
    InPlaceOfReady,
}

/// The percentage of ready endpoints below which Envoy gives traffic to all. It knows whole percents only: up to a
/// hundred endpoints this means that none is ready.
const NONE_IS_READY: f64 = 1.0;

impl Unready {
    /// Returns what becomes of the unready endpoints of a service in a cluster with this policy. A `minHealthPercent`
    /// says by itself how many must be ready, so that more endpoints would change its meaning.
    pub(in crate::translate) fn of(mesh: &MeshSettings, service: &Service, policy: &PortPolicy) -> Self {
        let minimum = policy.outlier_detection.as_ref().map(|detection| detection.min_health_percent);
        let preferring = service.distribution != TrafficDistribution::Any;
        match (mesh.send_unready_endpoints, minimum) {
            (sent, _) if service.registry == Registry::External => {
                if sent {
                    Self::InPlaceOfReady
                } else {
                    Self::LeftOut
                }
            }
            (false, _) if preferring => Self::Unhealthy,
            (true, Some(_)) if preferring => Self::ServeWhenAllAre,
            (false, _) | (true, Some(1..)) => Self::LeftOut,
            (true, Some(0)) => Self::ServeWhenAllAre,
            (true, None) => Self::Unhealthy,
        }
    }

    /// Returns the endpoints that are sent, each with its health.
    pub(super) fn chosen<'a>(self, endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<(&'a Endpoint, Health)> {
        let mut chosen: Vec<_> = endpoints.map(|endpoint| (endpoint, endpoint.backend.health)).collect();
        let is_ready = |(_, health): &(&Endpoint, Health)| *health != Health::Unready;
        let some_ready = chosen.iter().any(is_ready);
        match self {
            Self::Unhealthy => {}
            Self::ServeWhenAllAre if !some_ready => chosen.iter_mut().for_each(|(_, health)| *health = Health::Unknown),
            Self::InPlaceOfReady if !some_ready => {}
            Self::ServeWhenAllAre => {}
            Self::LeftOut | Self::InPlaceOfReady => chosen.retain(is_ready),
        }
        chosen
    }
}

/// Returns the percentage of ready endpoints below which all of a cluster have traffic; `None` for Envoy's own. Where some
/// endpoints are preferred, those that are not ready must not have traffic while others are.
pub(in crate::translate) fn panic_threshold(mesh: &MeshSettings, service: &Service, policy: &PortPolicy) -> Option<f64> {
    let preferring = service.distribution != TrafficDistribution::Any;
    match (&policy.outlier_detection, mesh.send_unready_endpoints) {
        (Some(_), _) | (None, false) if preferring => Some(0.0),
        (Some(detection), _) => Some(f64::from(detection.min_health_percent)),
        (None, true) if service.registry == Registry::Kubernetes => Some(NONE_IS_READY),
        (None, _) => None,
    }
}
