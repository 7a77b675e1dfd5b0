//! Goodness of grouping L_g, Eq. 8 of the paper as the authors' implementation computes it: modularity, collapse
//! and separation of the centroids.

use tch::{Kind, Tensor};

use super::{CONCENTRATION, unit};

/// Which neighbours a segment has in the graph A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// The k nearest among all segments of the image's views (street scenes: 4).
    Joint(usize),
    /// So many within the segment's view and so many in the other views (COCO: 2 and 2).
    PerView {
        /// Neighbours in the same view.
        within: usize,
        /// Neighbours in the other views.
        across: usize,
    },
}

/// Binary directed k-nearest-neighbour graph A `[B, N, N]` on unit features `x0` `[B, m, N]`, without gradient.
///
/// Weights exp(5·cosine), no self loops, kept entries ≥ the k-th largest of the row. `valid` `[B, N]` (1 or 0)
/// leaves padding out of rows and columns. `view` `[B, N]` int64 is read by [`Neighbours::PerView`] alone.
pub fn neighbour_graph(x0: &Tensor, valid: &Tensor, view: Option<&Tensor>, neighbours: Neighbours) -> Tensor {
    tch::no_grad(|| {
        let pairs = valid.unsqueeze(2) * valid.unsqueeze(1);
        let num_tokens = valid.size()[1];
        let no_self = 1f64 - Tensor::eye(num_tokens, (valid.kind(), valid.device()));
        let weights = (x0.transpose(1, 2).matmul(x0) * 5.0).exp() * pairs * no_self;
        match (neighbours, view) {
            (Neighbours::PerView { within, across }, Some(view)) => {
                let same = view.unsqueeze(2).eq_tensor(&view.unsqueeze(1)).to_kind(weights.kind());
                let in_view = nearest(&(&weights * &same), within);
                let in_others = nearest(&(&weights * (1f64 - same)), across);
                in_view + in_others
            }
            (Neighbours::Joint(k), _) => nearest(&weights, k),
            // Without views there is one.
            (Neighbours::PerView { within, .. }, None) => nearest(&weights, within),
        }
    })
}

/// 1 where an entry is positive and at least the k-th largest of its row.
fn nearest(weights: &Tensor, k: usize) -> Tensor {
    let length = weights.size()[2];
    let k = i64::try_from(k).unwrap_or(i64::MAX).clamp(1, length);
    let (largest, _) = weights.topk(k, 2, true, true);
    let threshold = largest.narrow(2, k - 1, 1);
    weights.ge_tensor(&threshold).logical_and(&weights.gt(0.0)).to_kind(weights.kind())
}

/// Modularity term, mean over the images: `1 − trace(MᵀAM − Mᵀd dᵀM / N) / N` with d the row sums of A and
/// `N = 2·Σd` (the implementation's form; the paper's Eq. 8 reads otherwise).
///
/// `adjacency` `[B, N, N]`; `assignment` M `[B, n, N]`, columns sum to 1.
pub fn modularity(adjacency: &Tensor, assignment: &Tensor) -> Tensor {
    let all = [1i64, 2];
    let degrees = adjacency.sum_dim_intlist([2i64].as_slice(), true, None::<Kind>);
    // An image with a single segment has no edges: its term is 1, not 0/0.
    let volume = (degrees.sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>) * 2.0).clamp_min(1.0);
    let inside = (assignment.matmul(adjacency) * assignment).sum_dim_intlist(all.as_slice(), false, None::<Kind>);
    let expected = assignment.matmul(&degrees).square().sum_dim_intlist(all.as_slice(), false, None::<Kind>);
    (1f64 - (inside - expected / &volume) / &volume).mean(None::<Kind>)
}

/// Collapse term, mean over the images: `sqrt(n) / N · ‖Σ_i M_i‖` over the valid tokens i, with N the padded number
/// of tokens. `assignment` M `[B, n, N]`, `valid` `[B, N]`.
pub fn collapse(assignment: &Tensor, valid: &Tensor) -> Tensor {
    let size = assignment.size();
    let (groups, tokens) = (size[1] as f64, size[2] as f64);
    mean_mass(assignment, valid) * (groups.sqrt() / tokens)
}

/// The same with N a value on the device, where there is room for more tokens than count; `number` int64.
pub fn collapse_of(assignment: &Tensor, valid: &Tensor, number: &Tensor) -> Tensor {
    let groups = assignment.size()[1] as f64;
    mean_mass(assignment, valid) * groups.sqrt() / number
}

/// ‖Σ_i M_i‖, mean over the images.
fn mean_mass(assignment: &Tensor, valid: &Tensor) -> Tensor {
    let mass = (assignment * valid.unsqueeze(1)).sum_dim_intlist([2i64].as_slice(), false, None::<Kind>);
    let norm = mass.linalg_norm(2.0, [1i64].as_slice(), false, None::<Kind>);
    norm.mean(None::<Kind>)
}

/// Centroid separation: contrastive loss (T = 1/16) over the normalised centroids of all images of the batch, each
/// its own class. `centroids` Z `[B, m, n]`.
pub fn centroid_separation(centroids: &Tensor) -> Tensor {
    let dim = centroids.size()[1];
    let z = unit(&centroids.transpose(1, 2).reshape([-1, dim]), 1);
    let logits = z.matmul(&z.transpose(0, 1)) * CONCENTRATION;
    -logits.log_softmax(1, None::<Kind>).diagonal(0, 0, 1).mean(None::<Kind>)
}
