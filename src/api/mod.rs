//! The objects that users write as typed values: parsing, defaults, and validation with field paths.

pub mod confidential;
pub mod diagnostic;
pub mod extension_provider;
mod findings;
pub mod go_duration;
pub(crate) mod host_index;
mod id;
pub mod istio;
pub mod key_set;
mod kind;
mod kinds;
pub mod kubernetes;
pub mod label_selector;
pub mod mesh_config;
pub mod module_url;
pub mod object;
pub mod proxy_config;
pub mod rate_limit_policy;
mod read;
pub mod stats_annotations;
pub mod trust_bundle;
mod validate;
pub mod value;
pub mod yaml;

pub use diagnostic::{Diagnostic, Location, Severity};
pub use id::{ConfigId, Id, LocalId};
pub use kind::{ApiResource, Kind, Shown, UnreadKind};
pub use label_selector::{Labels, selects};
pub use object::{Content, Metadata, Object, ObjectKey, Spec};
pub use read::{Parsed, Refused, Remnant, mesh_config_remnant, parse, parse_mesh_config, parse_proxy_config};
pub use validate::{header_format, re2};
