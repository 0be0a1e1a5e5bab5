//! Several ranks on one job: the mesh they form, and how batches and activations are divided among them.
//!
//! A [`Mesh`] is made from the world's group by whoever starts the job and reaches a dictionary as `base().mesh`; every holder has its
//! own clone, which costs a few reference counts. An axis of size 1 does nothing and asks nobody, so code states its collectives
//! without asking whether there are several ranks; it asks only where the answer changes what it computes.
//!
//! * `data`: every rank takes its share of the rows of each batch. Sums over rows are partial until `mesh.data` has reduced them.
//! * `model`: every rank holds its share of the features (or attention heads). Sums over features are partial until `mesh.model` has
//!   reduced them.
//! * `head`: every rank holds its share of a crosscoder's hook points.
//! * `shards`: head × model, the ranks that together hold one dictionary.
//!
//! `exchanges` are the ranks of `data` a second time: gradients are added up and parameters gathered there, on a thread of their own,
//! while the queue computes. What they exchange is given away until it is done.

mod agree;
mod exchanges;
mod mesh;
pub mod placement;
mod producer;
pub mod rows;
mod select;

pub use agree::{agree, on_primary, together};
pub use exchanges::Exchanges;
pub use mesh::{Axis, Mesh, MeshSize, balanced};
pub use producer::Together;
pub use select::{Pool, Selected, select_over_batch};
