//! The oriented watershed transform and the ultrametric contour map (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik,
//! "Contour detection and hierarchical image segmentation", PAMI 2011, §4).

mod arcs;
mod watershed;

pub use arcs::{LineArc, LineArcs, trace};
pub use watershed::{LineMap, watershed_with_lines};
