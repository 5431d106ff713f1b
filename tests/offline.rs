//! All tests that need no network, no API server and no root and measure no time, in one binary, because each binary links all of
//! the crate. `cargo test --test offline golden` runs those of one module.

mod architecture;
mod conflicts;
mod constraints;
mod cost;
mod crds;
mod descriptors;
mod edges;
mod fields;
mod golden;
mod history;
mod hostile;
mod inject;
mod judge;
mod near_linear;
mod observability;
mod oracle;
mod references;
