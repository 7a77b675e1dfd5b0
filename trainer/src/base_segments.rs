//! Base segments: batched spherical k-means split by edge segments. [T5]
//!
//! Everything runs on the tensors' device for all views at once. Numbers of segments are shapes, so they come back to the
//! host, which then waits for all that the device was asked for; unless there is [`Room`] for more segments than there
//! will be.

use segcore::spherical_kmeans::KmeansSpec;
use serde::{Deserialize, Serialize};
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

/// How many segments tensors have room for, where it is chosen before the number of segments is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {
    /// Of the batch.
    pub segments: i64,
    /// Of an image.
    pub tokens: i64,
}

/// The cells of a batch of views that take part.
pub struct KeptCells {
    /// Flat index (view, y, x) of each, `[P]` int64.
    pub index: Tensor,
    /// The most that an image has in all its views.
    pub most_of_image: i64,
}

impl KeptCells {
    /// Those that have an edge region, of `[V, h, w]` regions that are on the host, `cells` a view and `views` an image.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn of_edges(edges: &[i64], cells: usize, views: usize) -> Result<Self> {
        let is_kept = |&(_, region): &(usize, &i64)| *region != NO_REGION;
        let index: Vec<i64> = edges.iter().enumerate().filter(is_kept).map(|(index, _)| index as i64).collect();
        let images = edges.chunks((cells * views).max(1));
        let most = images.map(|image| image.iter().filter(|&&region| region != NO_REGION).count()).max();
        Ok(KeptCells { index: Tensor::f_from_slice(&index)?, most_of_image: most.unwrap_or(0).max(1) as i64 })
    }
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
    /// Where there is [`Room`].
    pub present: Option<Present>,
}

/// Which rows are segments, where there is room for more.
pub struct Present {
    /// Whether a row is one, `[S]` bool; those in front are. The others have area 0.
    pub mask: Tensor,
    /// How many there are, be it more than there is room for, a scalar int64.
    pub number: Tensor,
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
                present: None,
            }
        })
    }

    /// As [`BaseSegments::new`] with `room` segments, of which those in front are there; nothing is read back. What does
    /// not fit is counted to the last one: the caller compares the number of segments with the room later.
    pub fn within(
        room: Room,
        features: &Tensor,
        edge_segments: &Tensor,
        kept: &Tensor,
        index: &Tensor,
        spec: &KmeansSpec,
    ) -> Self {
        let clusters = spherical_kmeans(features, kept, spec);
        let num_clusters = (spec.grid_rows * spec.grid_columns) as i64;
        tch::no_grad(|| {
            let size = clusters.size();
            let (views, cells) = (size[0], size[1] * size[2]);
            let options = (Kind::Int64, clusters.device());
            let view = Tensor::arange(views, options).unsqueeze(1);
            let key = (view * num_clusters + clusters.reshape([views, cells])) * REGION_IDS
                + edge_segments.reshape([views, cells]);
            let key = key.reshape([-1]).index_select(0, index);
            // Equal keys side by side: each that differs from the one before begins a segment.
            let (sorted, order) = key.sort(0, false);
            let number = sorted.size()[0];
            let begins = sorted.narrow(0, 1, number - 1).ne_tensor(&sorted.narrow(0, 0, number - 1));
            let place = Tensor::zeros([number], options);
            place.narrow(0, 1, number - 1).copy_(&begins.cumsum(0, Kind::Int64));
            let count = place.select(0, number - 1) + 1;
            let place = place.clamp_max(room.segments - 1);
            let segment_of_pixel = place.empty_like().index_copy(0, &order, &place);
            let none = Tensor::zeros([room.segments], options);
            let key_of_segment = none.index_copy(0, &place, &sorted);
            let area = none.index_add(0, &place, &sorted.ones_like());
            BaseSegments {
                view_of_pixel: index.divide_scalar_mode(cells, "floor"),
                edge_of_pixel: key.remainder(REGION_IDS),
                kept: index.shallow_clone(),
                segment_of_pixel,
                area,
                num_segments: room.segments,
                view_of_segment: key_of_segment.divide_scalar_mode(REGION_IDS * num_clusters, "floor"),
                edge_of_segment: key_of_segment.remainder(REGION_IDS),
                present: Some(Present {
                    mask: Tensor::arange(room.segments, options).less_tensor(&count),
                    number: count,
                }),
            }
        })
    }

    /// The image of every segment, `[S]` int64: `image_of_view` `[V]` int64 below `num_images`. Rows that are no
    /// segment belong to an image behind the last one.
    pub fn images(&self, image_of_view: &Tensor, num_images: i64) -> Tensor {
        let image = image_of_view.index_select(0, &self.view_of_segment);
        match &self.present {
            None => image,
            Some(present) => image.where_scalarother(&present.mask, num_images),
        }
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
        let area = self.area.unsqueeze(1).to_kind(rows.kind());
        self.sum(rows) / if self.present.is_some() { area.clamp_min(1.0) } else { area }
    }
}

/// Segments of each image side by side as padded token sets.
pub struct TokenSets {
    /// Place (image · length + position) of every segment, `[S]` int64; of a row that is no segment, the place behind
    /// all.
    place: Tensor,
    /// The same with a place inside for every row.
    readable: Tensor,
    /// Places behind the images'.
    spare: i64,
    /// Number of images.
    num_images: i64,
    /// Tokens per image, the largest number of segments of an image (of any rank).
    length: i64,
    /// 1 for a segment, 0 for padding, `[images, length]`.
    pub valid: Tensor,
    /// Where there is [`Room`]: what counts.
    pub counted: Option<CountedTokens>,
}

/// Tokens that count, where there is room for more: up to the longest image's last segment.
pub struct CountedTokens {
    /// 1 for a token that counts, `[images, length]`; the same for all images.
    pub mask: Tensor,
    /// How many of an image count, a scalar int64.
    pub number: Tensor,
}

impl TokenSets {
    /// From the image of every segment, `[S]` int64, which must not fall from one segment to the next (the views of
    /// an image are adjacent in a batch).
    pub fn new(image_of_segment: &Tensor, num_images: i64) -> Self {
        let count = image_of_segment.bincount(None::<Tensor>, num_images);
        let length = count.max().int64_value(&[]).max(1);
        Self::with_length(image_of_segment, &count, length, 0)
    }

    /// The same with `length` tokens an image, which must be enough; nothing is read back. Rows of an image behind the
    /// last one are left out.
    pub fn within(length: i64, image_of_segment: &Tensor, num_images: i64) -> Self {
        tch::no_grad(|| {
            let count = Tensor::zeros([num_images + 1], (Kind::Int64, image_of_segment.device()));
            let count = count.index_add(0, image_of_segment, &image_of_segment.ones_like());
            let mut sets = Self::with_length(image_of_segment, &count, length, 1);
            let number = count.narrow(0, 0, num_images).max().clamp_min(1);
            let range = Tensor::arange(length, (Kind::Int64, image_of_segment.device()));
            let mask = range.less_tensor(&number).to_kind(Kind::Float).expand([num_images, length], false);
            sets.counted = Some(CountedTokens { mask, number });
            sets
        })
    }

    /// The same with as many tokens per image as the longest image of all ranks has: padding counts in batch norm, in
    /// the feature mapping and in the collapse term.
    ///
    /// # Errors
    /// As [`Ranks::max`].
    pub fn over_ranks(image_of_segment: &Tensor, num_images: i64, ranks: &Ranks) -> Result<Self> {
        let count = image_of_segment.bincount(None::<Tensor>, num_images);
        let length = ranks.max(count.max().int64_value(&[]).max(1))?;
        Ok(Self::with_length(image_of_segment, &count, length, 0))
    }

    /// Pixels of each image side by side; their image `[P]` int64 must not fall from one to the next. Nothing is read back
    /// where the host has a list of them.
    pub fn of_pixels(image_of_pixel: &Tensor, num_images: i64, kept: Option<&KeptCells>) -> Self {
        let Some(kept) = kept else { return Self::new(image_of_pixel, num_images) };
        tch::no_grad(|| {
            let count = Tensor::zeros([num_images], (Kind::Int64, image_of_pixel.device()));
            let count = count.index_add(0, image_of_pixel, &image_of_pixel.ones_like());
            Self::with_length(image_of_pixel, &count, kept.most_of_image, 0)
        })
    }

    /// `count`: segments of every image, `[images + spare]`; `length`: at least the largest of the images'. With
    /// `spare` 1 the rows of the image behind the last one share a place behind all.
    fn with_length(image_of_segment: &Tensor, count: &Tensor, length: i64, spare: i64) -> Self {
        tch::no_grad(|| {
            let num_images = count.size()[0] - spare;
            let start = count.cumsum(0, Kind::Int64) - count;
            let device = image_of_segment.device();
            let position = Tensor::arange(image_of_segment.size()[0], (Kind::Int64, device))
                - start.index_select(0, image_of_segment);
            let place = image_of_segment * length + position;
            let range = Tensor::arange(length, (Kind::Int64, device)).unsqueeze(0);
            let valid = range.less_tensor(&count.narrow(0, 0, num_images).unsqueeze(1)).to_kind(Kind::Float);
            let behind = num_images * length;
            let place = if spare > 0 { place.clamp_max(behind) } else { place };
            let readable = if spare > 0 { place.clamp_max(behind - 1) } else { place.shallow_clone() };
            TokenSets { place, readable, spare, num_images, length, valid, counted: None }
        })
    }

    /// Rows `[S, c]` as tokens `[images, c, length]`, padding 0, with gradient.
    pub fn scatter(&self, rows: &Tensor) -> Tensor {
        let channels = rows.size()[1];
        let options = (rows.kind(), rows.device());
        let zeros = Tensor::zeros([self.num_images * self.length + self.spare, channels], options);
        let flat = zeros.index_copy(0, &self.place, rows);
        self.in_front(&flat).reshape([self.num_images, self.length, channels]).transpose(1, 2)
    }

    /// Ids `[S]` int64 as tokens `[images, length]`, padding `fill`.
    pub fn scatter_ids(&self, ids: &Tensor, fill: i64) -> Tensor {
        let flat = Tensor::full([self.num_images * self.length + self.spare], fill, (Kind::Int64, ids.device()));
        self.in_front(&flat.index_copy(0, &self.place, ids)).reshape([self.num_images, self.length])
    }

    /// Without the place behind all.
    fn in_front(&self, places: &Tensor) -> Tensor {
        if self.spare > 0 { places.narrow(0, 0, self.num_images * self.length) } else { places.shallow_clone() }
    }

    /// Number of rows that segments have.
    pub fn num_rows(&self) -> i64 {
        self.place.size()[0]
    }

    /// Position of every place within its image.
    pub fn position(&self, places: &Tensor) -> Tensor {
        places.remainder(self.length)
    }

    /// Rows of the tokens `[images, length, c]` back in segment order, `[S, c]`.
    pub fn gather_rows(&self, tokens: &Tensor) -> Tensor {
        tokens.reshape([-1, tokens.size()[2]]).index_select(0, &self.readable)
    }

    /// Values of the tokens `[images, length]` back in segment order, `[S]`.
    pub fn gather(&self, tokens: &Tensor) -> Tensor {
        tokens.reshape([-1]).index_select(0, &self.readable)
    }

    /// Places of the segments of `rows`, `[R]` int64: what [`TokenSets::gather_at`] takes.
    pub fn places(&self, rows: &Tensor) -> Tensor {
        self.readable.index_select(0, rows)
    }

    /// Values of the tokens `[images, length]` at `places`, `[R]`.
    pub fn gather_at(tokens: &Tensor, places: &Tensor) -> Tensor {
        tokens.reshape([-1]).index_select(0, places)
    }
}
