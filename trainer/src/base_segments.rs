//! Base segments: batched spherical k-means split by edge segments. [T5]
//!
//! Everything runs on the tensors' device for all views at once; only the number of kept pixels, of segments and
//! the largest number of segments per image come back to the host, as they are shapes.

use segcore::spherical_kmeans::KmeansSpec;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::losses::unit;
use crate::parallel::Ranks;

/// "No region" in our edge-segment files and tensors: crop padding, or a pixel outside every region.
pub const NO_REGION: i64 = 65535;
/// Region ids lie below this.
const REGION_IDS: i64 = 65536;

/// Location features (y, x) of every cell, `[h, w, 2]`, each in [-0.5, 0.5] with both ends included (a single row or
/// column is at -0.5).
pub fn location_features(height: i64, width: i64, device: Device) -> Tensor {
    let options = (Kind::Float, device);
    let y = Tensor::linspace(-0.5, 0.5, height, options).unsqueeze(1).expand([height, width], false);
    let x = Tensor::linspace(-0.5, 0.5, width, options).unsqueeze(0).expand([height, width], false);
    Tensor::stack(&[y, x], 2)
}

/// Initial labels of k-means, `[h, w]` int64: `round(linspace(0, rows−1, h)) + rows·round(linspace(0, columns−1, w))`,
/// half to even.
pub fn initial_labels(height: i64, width: i64, spec: &KmeansSpec, device: Device) -> Tensor {
    let options = (Kind::Float, device);
    let (rows, columns) = (spec.grid_rows as i64, spec.grid_columns as i64);
    let y = Tensor::linspace(0.0, (rows - 1) as f64, height, options).round().to_kind(Kind::Int64);
    let x = Tensor::linspace(0.0, (columns - 1) as f64, width, options).round().to_kind(Kind::Int64);
    y.unsqueeze(1) + x.unsqueeze(0) * rows
}

/// Cluster of every cell, `[V, h, w]` int64 in `0..rows·columns`; cells outside `kept` get some cluster but take no
/// part. No gradient.
///
/// `features` `[V, m, h, w]` unit per cell; `kept` `[V, h, w]` bool.
pub fn spherical_kmeans(features: &Tensor, kept: &Tensor, spec: &KmeansSpec) -> Tensor {
    tch::no_grad(|| {
        let size = features.size();
        let (views, dim, height, width) = (size[0], size[1], size[2], size[3]);
        let cells = height * width;
        let clusters = (spec.grid_rows * spec.grid_columns) as i64;
        let device = features.device();
        let v = features.permute([0, 2, 3, 1]).reshape([views, cells, dim]);
        let location = location_features(height, width, device).reshape([1, cells, 2]).expand([views, cells, 2], false);
        let with_location = unit(&Tensor::cat(&[v, location], 2), 2);
        let weight = kept.reshape([views, cells, 1]).to_kind(Kind::Float);
        // Cells outside `kept` are zero vectors: they add nothing to a centroid.
        let summed = &with_location * &weight;
        let start = initial_labels(height, width, spec, device).reshape([1, cells]).expand([views, cells], false);
        let mut labels = start;
        let ids = Tensor::arange(clusters, (Kind::Int64, device)).reshape([1, clusters, 1]);
        for _ in 0..spec.rounds {
            // Sums over the members of every cluster as a product with their one-hot labels.
            let member = ids.eq_tensor(&labels.unsqueeze(1)).to_kind(Kind::Float);
            let centroids = unit(&member.bmm(&summed), 2);
            labels = with_location.bmm(&centroids.transpose(1, 2)).argmax(2, false);
        }
        labels.reshape([views, height, width])
    })
}

/// The base segments of a batch of views. Segments are numbered densely in the order (view, cluster, edge region).
pub struct BaseSegments {
    /// Flat index (view, y, x) of every kept cell, `[P]` int64.
    pub kept: Tensor,
    /// View of every kept cell, `[P]` int64.
    pub view_of_pixel: Tensor,
    /// Edge region of every kept cell, `[P]` int64.
    pub edge_of_pixel: Tensor,
    /// Segment of every kept cell, `[P]` int64 in `0..S`.
    pub segment_of_pixel: Tensor,
    /// Number of kept cells of every segment, `[S]` int64.
    pub area: Tensor,
    /// View of every segment, `[S]` int64.
    pub view_of_segment: Tensor,
    /// Edge region of every segment, `[S]` int64.
    pub edge_of_segment: Tensor,
    /// S.
    pub num_segments: i64,
}

impl BaseSegments {
    /// Clusters `features` `[V, m, h, w]` (unit per cell; read without gradient) and splits the clusters by
    /// `edge_segments` `[V, h, w]` int64 in `0..65536`; cells outside `kept` `[V, h, w]` bool are left out.
    pub fn new(features: &Tensor, edge_segments: &Tensor, kept: &Tensor, spec: &KmeansSpec) -> Self {
        let clusters = spherical_kmeans(features, kept, spec);
        Self::from_clusters(&clusters, (spec.grid_rows * spec.grid_columns) as i64, edge_segments, kept)
    }

    /// The same from given clusters `[V, h, w]` int64 in `0..num_clusters`.
    pub fn from_clusters(clusters: &Tensor, num_clusters: i64, edge_segments: &Tensor, kept: &Tensor) -> Self {
        tch::no_grad(|| {
            let size = clusters.size();
            let (views, cells) = (size[0], size[1] * size[2]);
            let index = kept.reshape([-1]).nonzero().squeeze_dim(1);
            let view = Tensor::arange(views, (Kind::Int64, clusters.device())).unsqueeze(1);
            let key = (view * num_clusters + clusters.reshape([views, cells])) * REGION_IDS
                + edge_segments.reshape([views, cells]);
            let key = key.reshape([-1]).index_select(0, &index);
            let (unique, segment_of_pixel, area) = key.internal_unique2(true, true, true);
            let edge_of_segment = unique.remainder(REGION_IDS);
            let view_of_segment = unique.divide_scalar_mode(REGION_IDS * num_clusters, "floor");
            BaseSegments {
                view_of_pixel: index.divide_scalar_mode(cells, "floor"),
                edge_of_pixel: key.remainder(REGION_IDS),
                kept: index,
                segment_of_pixel,
                area,
                num_segments: unique.size()[0],
                view_of_segment,
                edge_of_segment,
            }
        })
    }

    /// Rows of the kept cells of a map `[V, c, h, w]`: `[P, c]`, with gradient.
    pub fn gather(&self, map: &Tensor) -> Tensor {
        let channels = map.size()[1];
        map.permute([0, 2, 3, 1]).reshape([-1, channels]).index_select(0, &self.kept)
    }

    /// Sum of the rows `[P, c]` of every segment's cells, `[S, c]`, with gradient.
    pub fn sum(&self, rows: &Tensor) -> Tensor {
        let zeros = Tensor::zeros([self.num_segments, rows.size()[1]], (rows.kind(), rows.device()));
        zeros.index_add(0, &self.segment_of_pixel, rows)
    }

    /// Mean of the rows `[P, c]` of every segment's cells, `[S, c]`, with gradient.
    pub fn mean(&self, rows: &Tensor) -> Tensor {
        self.sum(rows) / self.area.unsqueeze(1).to_kind(rows.kind())
    }
}

/// Segments of each image side by side as padded token sets.
pub struct TokenSets {
    /// Place (image · length + position) of every segment, `[S]` int64.
    place: Tensor,
    /// Number of images.
    num_images: i64,
    /// Tokens per image, the largest number of segments of an image (of any rank).
    length: i64,
    /// 1 for a segment, 0 for padding, `[images, length]`.
    pub valid: Tensor,
}

impl TokenSets {
    /// From the image of every segment, `[S]` int64, which must not fall from one segment to the next (the views of
    /// an image are adjacent in a batch).
    pub fn new(image_of_segment: &Tensor, num_images: i64) -> Self {
        let count = image_of_segment.bincount(None::<Tensor>, num_images);
        let length = count.max().int64_value(&[]).max(1);
        Self::with_length(image_of_segment, &count, length)
    }

    /// The same with as many tokens per image as the longest image of all ranks has: padding counts in batch norm, in
    /// the feature mapping and in the collapse term.
    ///
    /// # Errors
    /// As [`Ranks::max`].
    pub fn over_ranks(image_of_segment: &Tensor, num_images: i64, ranks: &Ranks) -> Result<Self> {
        let count = image_of_segment.bincount(None::<Tensor>, num_images);
        let length = ranks.max(count.max().int64_value(&[]).max(1))?;
        Ok(Self::with_length(image_of_segment, &count, length))
    }

    /// `count`: segments of every image, `[images]`; `length`: at least the largest of them.
    fn with_length(image_of_segment: &Tensor, count: &Tensor, length: i64) -> Self {
        tch::no_grad(|| {
            let num_images = count.size()[0];
            let start = count.cumsum(0, Kind::Int64) - count;
            let device = image_of_segment.device();
            let position = Tensor::arange(image_of_segment.size()[0], (Kind::Int64, device))
                - start.index_select(0, image_of_segment);
            let place = image_of_segment * length + position;
            let range = Tensor::arange(length, (Kind::Int64, device)).unsqueeze(0);
            let valid = range.less_tensor(&count.unsqueeze(1)).to_kind(Kind::Float);
            TokenSets { place, num_images, length, valid }
        })
    }

    /// Rows `[S, c]` as tokens `[images, c, length]`, padding 0, with gradient.
    pub fn scatter(&self, rows: &Tensor) -> Tensor {
        let channels = rows.size()[1];
        let zeros = Tensor::zeros([self.num_images * self.length, channels], (rows.kind(), rows.device()));
        let flat = zeros.index_copy(0, &self.place, rows);
        flat.reshape([self.num_images, self.length, channels]).transpose(1, 2)
    }

    /// Ids `[S]` int64 as tokens `[images, length]`, padding `fill`.
    pub fn scatter_ids(&self, ids: &Tensor, fill: i64) -> Tensor {
        let flat = Tensor::full([self.num_images * self.length], fill, (Kind::Int64, ids.device()));
        flat.index_copy(0, &self.place, ids).reshape([self.num_images, self.length])
    }

    /// Position of every segment within its image, `[S]` int64.
    pub fn position(&self) -> Tensor {
        self.place.remainder(self.length)
    }

    /// Rows of the tokens `[images, length, c]` back in segment order, `[S, c]`.
    pub fn gather_rows(&self, tokens: &Tensor) -> Tensor {
        tokens.reshape([-1, tokens.size()[2]]).index_select(0, &self.place)
    }

    /// Values of the tokens `[images, length]` back in segment order, `[S]`.
    pub fn gather(&self, tokens: &Tensor) -> Tensor {
        tokens.reshape([-1]).index_select(0, &self.place)
    }
}
