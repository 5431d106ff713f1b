//! What users write, as typed values: parsing, defaults, validation with field paths.

pub mod diagnostic;
mod findings;
pub mod go_duration;
pub mod istio;
pub mod kubernetes;
pub mod label_selector;
pub mod mesh_config;
pub mod object;
pub mod proxy_config;
mod read;
mod resource;
mod validate;
pub mod yaml;

pub use diagnostic::{Diagnostic, Location, Severity};
pub use label_selector::selects;
pub use object::{Kind, Labels, Metadata, Object, ObjectKey, Spec};
pub use read::{Parsed, parse, parse_mesh_config, parse_proxy_config};
pub use resource::{ISTIO_GROUPS, Resource};
