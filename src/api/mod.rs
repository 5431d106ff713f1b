//! What users write, as typed values: parsing, defaults, validation with field paths.

pub mod diagnostic;
pub mod istio;
pub mod kubernetes;
pub mod mesh_config;
pub mod object;

pub use diagnostic::{Diagnostic, Location, Severity};
pub use object::{Kind, Labels, Metadata, Object, ObjectKey, Spec};
