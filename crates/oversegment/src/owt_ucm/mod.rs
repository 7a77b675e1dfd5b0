//! The oriented watershed transform and the ultrametric contour map (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik,
//! "Contour detection and hierarchical image segmentation", PAMI 2011, §4).
//!
//! The way of an edge map: [`OrientedEdges`] (strength per pixel and orientation) → [`watershed_with_lines`] of the
//! strongest orientation (where boundaries may be) → [`trace`] and [`LineArcs::subdivide`] (the lines as nearly
//! straight arcs) → [`OrientedEdges::along`] (each pixel's strength in the direction of its arc, which takes away the
//! strength that a watershed line borrows from another boundary it touches) → [`DoubledGrid`] (room for regions one
//! pixel apart) → its leaves merged in the order of mean boundary strength, by the code of [`crate::merge`] → [`Ucm`],
//! cut at a threshold.
//!
//! [`owt_ucm()`] does all of it, single-threaded; ties are broken by the column-major scan of the published tools.

mod arcs;
mod doubled_grid;
mod edges;
mod ucm;
mod watershed;

pub use arcs::{LineArc, LineArcs, trace};
pub use doubled_grid::DoubledGrid;
pub(crate) use edges::tangent;
pub use edges::{NUM_ORIENTATIONS, OrientedEdges};
pub use ucm::{PAPER_MAX_REGIONS, Ucm};
pub use watershed::{LineMap, watershed_with_lines};

/// The ultrametric contour map of `edges`, with mean boundary strengths as saliencies ([`Ucm::sigmoid`] scales them).
///
/// O(P log P) in the number of pixels for the watershed; the merging depends on the number of leaves alone.
pub fn owt_ucm(edges: &OrientedEdges) -> Ucm {
    let lines = watershed_with_lines(&edges.strength());
    let mut arcs = trace(&lines);
    arcs.subdivide();
    ucm_along(edges, &arcs)
}

/// The ultrametric contour map of `edges` whose watershed lines were cut into `arcs` ([`owt_ucm()`] in one call).
pub fn ucm_along(edges: &OrientedEdges, arcs: &LineArcs) -> Ucm {
    let grid = DoubledGrid::of_weights(edges.height(), edges.width(), &edges.along(arcs));
    let leaves = grid.leaves();
    let tree = grid.merge(&leaves);
    Ucm { leaves, tree }
}
