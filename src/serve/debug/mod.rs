//! `/debug`: what this control plane knows, for istioctl and for people (contract §1.2). The HTTP ports and ADS show the same
//! pages; names and shapes are istiod's where istiod has the page.

mod access;
mod acknowledged;
mod certificates;
mod mesh;
mod proxies;
mod rotation;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use axum::{extract::Query, http::Uri};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use smol_str::SmolStr;
use tokio::sync::watch;

pub(super) use access::Access;

use super::{convergence::Convergence, findings::CurrentFindings, readiness::Readiness};
use crate::{
    identity::{Clock, ca::CaHandle, inventory::Inventory, rotation::Record},
    mesh::world::World,
    peer_text::escaped_in_json,
    version,
    xds::{
        classes::Classes,
        debug::{Inspector, Viewer},
        dump,
        ledger::{Ledger, ProxyStatus},
    },
};

/// The state that the pages are made from.
pub(super) struct DebugState {
    /// The name of this process, which is its pod's.
    pub instance: String,
    /// The cluster that objects come from.
    pub cluster: SmolStr,
    /// What proxies have.
    pub ledger: Arc<Ledger>,
    /// What proxies are to have.
    pub classes: Arc<Classes>,
    /// The newest world.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Whether sources are synced.
    pub readiness: Readiness,
    /// How far recent changes have come.
    pub convergence: Arc<Convergence>,
    /// What is wrong with objects.
    pub findings: Arc<CurrentFindings>,
    /// Which certificates were issued.
    pub inventory: Arc<Inventory>,
    /// What proxies were told to trust.
    pub told: Arc<Record>,
    /// The CA, as soon as it is loaded.
    pub ca: OnceLock<Arc<CaHandle>>,
    /// What time it is.
    pub clock: Clock,
}

/// One page.
struct Page {
    name: &'static str,
    help: &'static str,
    show: fn(&DebugState, &PageRequest) -> Reply,
}

const PAGES: &[Page] = &[
    Page { name: "adsz", help: "Connected proxies: since when, from where, what they are", show: proxies::adsz },
    Page {
        name: "certificates",
        help: "Certificates that this process issued and that are valid (?namespace=)",
        show: certificates::certificates,
    },
    Page { name: "clusterz", help: "Clusters that objects are read from", show: mesh::clusterz },
    Page { name: "config_dump", help: "What the proxy ?proxyID= is to have, as an Envoy's config dump", show: proxies::config_dump },
    Page { name: "configz", help: "Istio objects in effect, without their content", show: mesh::configz },
    Page { name: "connections", help: "Connected proxies, shortly", show: proxies::connections },
    Page { name: "convergence", help: "Recent changes and how far they are", show: convergence },
    Page { name: "diagnostics", help: "What was found wrong with objects", show: diagnostics },
    Page { name: "ecdsz", help: "Extension configurations of the proxy ?proxyID=", show: proxies::ecdsz },
    Page { name: "edsz", help: "Endpoints of the proxy ?proxyID=", show: proxies::edsz },
    Page { name: "endpointShardz", help: "Endpoints by service", show: mesh::endpoint_shards },
    Page { name: "endpointz", help: "As endpointShardz", show: mesh::endpoint_shards },
    Page { name: "instancesz", help: "Services behind each connected proxy", show: proxies::instancesz },
    Page { name: "list", help: "The names of these pages", show: list },
    Page { name: "mesh", help: "MeshConfig in effect, as far as it is read", show: mesh::mesh },
    Page { name: "registryz", help: "Services", show: mesh::registryz },
    Page { name: "rotation", help: "What connected proxies are known to trust, for istiod-lite ca rotate", show: rotation::rotation },
    Page { name: "syncz", help: "How far each connected proxy is (?namespace=)", show: proxies::syncz },
];

/// A request for a page.
#[derive(Debug)]
struct PageRequest {
    viewer: Viewer,
    query: BTreeMap<String, String>,
}

/// The answer to a request. The texts of the refusals are istiod's: istioctl looks for them.
enum Reply {
    Json(Value),
    NoProxyNamed,
    NotConnected,
}

impl DebugState {
    /// Returns the page at `path`, which is what follows `/debug/` and the query.
    pub(super) fn open(&self, path: &str, viewer: &Viewer) -> (StatusCode, String) {
        let Some((page, query)) = find(path) else { return (StatusCode::NOT_FOUND, "404 page not found\n".into()) };
        if !viewer.may_open(page.name) {
            return (StatusCode::FORBIDDEN, String::new());
        }
        let pretty = query.contains_key("pretty");
        match (page.show)(self, &PageRequest { viewer: viewer.clone(), query }) {
            Reply::Json(value) => (StatusCode::OK, to_text(&value, pretty)),
            Reply::NoProxyNamed => (StatusCode::BAD_REQUEST, "You must provide a proxyID in the query string\n".into()),
            Reply::NotConnected => {
                let text = "Proxy not connected to this Pilot instance. It may be connected to another instance.\n";
                (StatusCode::NOT_FOUND, text.into())
            }
        }
    }

    /// Returns the table of contents, as HTML.
    pub(super) fn index(&self) -> String {
        let row = |page: &Page| format!("<tr><td><a href=\"/debug/{0}\">{0}</a></td><td>{1}</td></tr>\n", page.name, page.help);
        let rows: String = PAGES.iter().map(row).collect();
        format!("<html><head><title>istiod-lite</title></head><body><p>?pretty indents.</p>\n<table>\n{rows}</table></body></html>\n")
    }

    fn world(&self) -> Arc<World> {
        Arc::clone(&self.worlds.borrow())
    }

    /// Returns the first proxy that the viewer may see and whose connection's name contains `name`.
    fn proxy(&self, name: &str, viewer: &Viewer) -> Option<ProxyStatus> {
        let proxies = self.ledger.proxies().into_iter();
        proxies.filter(|proxy| viewer.sees(&proxy.node.proxy.namespace)).find(|proxy| proxy.connection.contains(name))
    }

    fn visible_proxies(&self, viewer: &Viewer) -> Vec<ProxyStatus> {
        let mut proxies = self.ledger.proxies();
        proxies.retain(|proxy| viewer.sees(&proxy.node.proxy.namespace));
        proxies.sort_by(|a, b| a.connection.cmp(&b.connection));
        proxies
    }
}

impl Inspector for DebugState {
    fn system_namespace(&self) -> SmolStr {
        self.world().mesh.root_namespace.clone()
    }

    fn page(&self, path: &str, viewer: &Viewer) -> Vec<u8> {
        self.open(path, viewer).1.into()
    }

    fn sync_status(&self, viewer: &Viewer) -> Vec<Any> {
        self.visible_proxies(viewer).iter().filter(|proxy| proxy.node.has_proxy_config).map(proxies::client_config).collect()
    }

    fn config_dump(&self, proxy: &str, viewer: &Viewer) -> Vec<Any> {
        let view = self.proxy(proxy, viewer).and_then(|proxy| self.classes.view_of(&proxy.id));
        view.map(|view| dump::sections(&view, false)).unwrap_or_default()
    }

    fn instance(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Instance<'a> {
            component: &'a str,
            #[serde(rename = "ID")]
            id: &'a str,
            info: version::BuildInfo,
        }
        let instance = Instance { component: "istiod", id: &self.instance, info: version::BUILD };
        serde_json::to_string(&instance).unwrap_or_default()
    }
}

impl PageRequest {
    fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

fn find(path: &str) -> Option<(&'static Page, BTreeMap<String, String>)> {
    let uri: Uri = format!("/{path}").parse().ok()?;
    let name = uri.path().trim_start_matches('/');
    let page = PAGES.iter().find(|page| page.name == name)?;
    let Query(query) = Query::try_from_uri(&uri).ok()?;
    Some((page, query))
}

/// Returns JSON for a terminal: what objects and proxies wrote does nothing to it.
fn to_text(value: &Value, pretty: bool) -> String {
    let text = if pretty { format!("{value:#}") } else { value.to_string() };
    text.lines().flat_map(|line| [escaped_in_json(line), "\n".to_owned()]).collect()
}

fn list(_: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(PAGES.iter().map(|page| page.name).filter(|name| *name != "list").collect())
}

fn convergence(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(json!(state.convergence.records()))
}

fn diagnostics(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(json!(state.findings.lines()))
}
