//! From the embeddings of a batch to its loss: base segments, groups of every level, all loss terms. [T5–T6]

use models::arch::clustering_transformer::names;
use models::arch::{NetworkSpec, clustering_transformer};
use segcore::spherical_kmeans::KmeansSpec;
use tch::{Device, Kind, Tensor};

use crate::base_segments::{BaseSegments, KeptCells, Room, TokenSets};
use crate::device::Form;
use crate::error::Result;
use crate::graph_module::{GraphModule, Mode, ParamStore};
use crate::losses::goodness_of_grouping::{
    Neighbours, centroid_separation, collapse, collapse_of, modularity, neighbour_graph,
};
use crate::losses::image_blocks::ImageBlocks;
use crate::losses::pixel_segment::{Grouping, PixelSegmentSpec, PositiveSum, pixel_segment_losses};
use crate::losses::{CONCENTRATION, unit};
use crate::parallel::Ranks;
use crate::profile::{Profiler, Stage};

/// Memory of one chunk of pixel–segment similarities: on a CPU it should stay in the cache.
const CHUNK_BYTES_CPU: usize = 1 << 20;
/// On a GPU few large products are faster than many small ones.
const CHUNK_BYTES_CUDA: usize = 512 << 20;

/// The numbers that the objective depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveSettings {
    /// Base segments of a training crop.
    pub kmeans: KmeansSpec,
    /// Graph of the modularity term.
    pub neighbours: Neighbours,
    /// λ_E, weight of the loss on edge segments.
    pub weight_edge: f64,
    /// λ_F, weight of each level's pixel–segment loss.
    pub weight_feature: f64,
    /// λ_G, weight of each level's goodness of grouping.
    pub weight_grouping: f64,
    /// How positives are summed; [`PositiveSum::Direct`] except to compare with the golden numbers.
    pub positive_sum: PositiveSum,
}

/// What comes with the embeddings of a batch of V views.
pub struct Views<'a> {
    /// Edge region of every cell, `[V, h, w]` int64; the same region has the same id in all views of an image.
    pub edge_segments: &'a Tensor,
    /// Cells that take part, `[V, h, w]` bool.
    pub kept: &'a Tensor,
    /// The same as a list, where the host has it.
    pub kept_cells: Option<&'a KeptCells>,
    /// Room for segments, if the number of them is not to be read back; that needs `kept_cells`, one rank alone and
    /// [`Form::Device`], and is for training. It must be enough, see [`Objective::used`].
    pub room: Option<Room>,
    /// Image of every view, `[V]` int64 from 0, not falling: the views of one image are adjacent.
    pub image_of_view: &'a Tensor,
    /// Number of images; the same on all ranks.
    pub num_images: i64,
}

/// One level of groups of a batch; N tokens an image.
pub struct LevelOfGroups {
    /// Soft assignment P_l of the base segments, `[images, n_l, N]`, columns sum to 1.
    pub assignment: Tensor,
    /// Arg-max of P_l for every segment as a group id (image · n_l + group, images counted over all ranks), `[S]` int64.
    pub group_of_segment: Tensor,
    /// Projected centroids Z_l, `[images, m, n_l]`.
    pub centroids: Tensor,
}

/// Loss terms (weighted: they add up to `total`) and what they were computed from.
pub struct Objective {
    /// The loss, a scalar with gradient.
    pub total: Tensor,
    /// λ_E L_f(G_e), without gradient.
    pub edge: Tensor,
    /// λ_F L_f(G_l) for l = 1, 2, …, without gradient.
    pub feature: Vec<Tensor>,
    /// λ_G L_g of l = 1, 2, ….
    pub grouping: Vec<Tensor>,
    /// The base segments.
    pub base: BaseSegments,
    /// Unit mean feature of every segment, `[S, m]`.
    pub segment_features: Tensor,
    /// Those of each image side by side, `[images, m, N]`.
    pub tokens: Tensor,
    /// 1 for a segment, 0 for padding, `[images, N]`.
    pub valid: Tensor,
    /// Groups of l = 1, 2, ….
    pub levels: Vec<LevelOfGroups>,
    /// With [`Views::room`]: how much of it was needed, `[2]` int64, segments and tokens.
    pub used: Option<Tensor>,
}

/// The clustering transformers of all levels with the settings of the losses.
pub struct ObjectiveModule {
    settings: ObjectiveSettings,
    transformers: Vec<GraphModule>,
    /// The first of them where there is room for more segments than there are.
    first_with_room: GraphModule,
    position_tables: [String; 2],
    ranks: Ranks,
    form: Form,
}

impl ObjectiveModule {
    /// For the network `spec`, constants on `device`.
    ///
    /// # Errors
    /// [`crate::TrainError::Model`] when the specification is out of range.
    pub fn new(spec: &NetworkSpec, settings: ObjectiveSettings, device: Device) -> Result<Self> {
        Self::in_form(spec, settings, device, Form::of(device))
    }

    /// The same in a given form.
    ///
    /// # Errors
    /// [`crate::TrainError::Model`] when the specification is out of range.
    pub fn in_form(spec: &NetworkSpec, settings: ObjectiveSettings, device: Device, form: Form) -> Result<Self> {
        let mut transformers = Vec::new();
        for level in 0..spec.groups.len() {
            let graph = clustering_transformer::training(spec, level)?;
            transformers.push(GraphModule::in_form(&graph, device, form)?);
        }
        let first_with_room = clustering_transformer::training_with_spare_room(spec)?;
        let first_with_room = GraphModule::in_form(&first_with_room, device, form)?;
        let position_tables = spec.position_params().map(|p| p.name);
        Ok(ObjectiveModule { settings, transformers, first_with_room, position_tables, ranks: Ranks::alone(), form })
    }

    /// With the images of all ranks as one batch in training: the mean of the ranks' losses is that of the global batch.
    #[must_use]
    pub fn over_ranks(self, ranks: &Ranks) -> Self {
        let transformers = self.transformers.into_iter().map(|t| t.over_ranks(ranks)).collect();
        ObjectiveModule { transformers, ranks: ranks.clone(), ..self }
    }

    /// Position embedding of every cell, `[1, m, h, w]`: column table first, then row table, looked up by index.
    ///
    /// # Errors
    /// [`crate::TrainError::Invalid`] when a table is missing.
    pub fn position_embedding(&self, params: &ParamStore, height: i64, width: i64) -> Result<Tensor> {
        let columns = params.get(&self.position_tables[0])?.narrow(0, 0, width);
        let rows = params.get(&self.position_tables[1])?.narrow(0, 0, height);
        let half = columns.size()[1];
        let columns = columns.transpose(0, 1).reshape([half, 1, width]).expand([half, height, width], false);
        let rows = rows.transpose(0, 1).reshape([half, height, 1]).expand([half, height, width], false);
        Ok(Tensor::cat(&[columns, rows], 0).unsqueeze(0))
    }

    /// The objective of `embeddings` `[V, m, h, w]` (any length per cell) for the views of a batch.
    ///
    /// At least one cell must be kept; an image whose views keep none takes part with padding only.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`] when shapes do not fit.
    pub fn run(
        &self,
        params: &ParamStore,
        embeddings: &Tensor,
        views: &Views<'_>,
        mode: Mode,
        profiler: &mut Profiler<'_>,
    ) -> Result<Objective> {
        let settings = &self.settings;
        // One rank may look at pictures while the others wait.
        let alone = Ranks::alone();
        let ranks = if mode == Mode::Evaluate { &alone } else { &self.ranks };
        let size = embeddings.size();
        let (num_views, height, width) = (size[0], size[2], size[3]);
        let embeddings = unit(embeddings, 1);
        // The losses as they were published know nothing of spare rows.
        let has_room = ranks.is_alone()
            && self.form == Form::Device
            && mode != Mode::Evaluate
            && settings.positive_sum == PositiveSum::Direct;
        let room = views.room.filter(|_| has_room);
        let room = room.zip(views.kept_cells);
        let base = match room {
            Some((room, kept)) => {
                let (edges, index) = (views.edge_segments, &kept.index);
                BaseSegments::within(room, &embeddings, edges, views.kept, index, &settings.kmeans)
            }
            None => BaseSegments::new(&embeddings, views.edge_segments, views.kept, &settings.kmeans),
        };
        profiler.mark(Stage::Kmeans);

        let pixels = base.gather(&embeddings);
        let segment_features = unit(&base.sum(&pixels), 1);
        let position = self.position_embedding(params, height, width)?;
        let position = position.expand([num_views, -1, -1, -1], false);
        let segment_positions = base.mean(&base.gather(&position));
        let image_of_segment = base.images(views.image_of_view, views.num_images);
        let sets = match room {
            Some((room, _)) => TokenSets::within(room.tokens, &image_of_segment, views.num_images),
            None => TokenSets::over_ranks(&image_of_segment, views.num_images, ranks)?,
        };
        let images = ranks.even_rows(views.num_images);
        let image_number = &image_of_segment + images.before;
        let tokens = sets.scatter(&segment_features);
        let positions = sets.scatter(&segment_positions);

        let mut levels: Vec<LevelOfGroups> = Vec::with_capacity(self.transformers.len());
        let mut level_features = tokens.shallow_clone();
        let mut level_positions = positions.shallow_clone();
        // The ablation with λ_E alone needs no groups.
        let needs_groups = settings.weight_feature > 0.0 || settings.weight_grouping > 0.0;
        let transformers = self.transformers.iter().filter(|_| needs_groups);
        for (i, transformer) in transformers.enumerate() {
            let mut inputs = vec![(names::FEATURES, &level_features), (names::POSITIONS, &level_positions)];
            let mut transformer = transformer;
            if i == 0 {
                inputs.push((names::VALID, &sets.valid));
                if let Some(counted) = &sets.counted {
                    inputs.push((names::COUNTED, &counted.mask));
                    transformer = &self.first_with_room;
                }
            }
            let mut outputs = transformer.run(params, &inputs, mode)?;
            // C of this level with groups first, [images, n_{l+1}, n_l].
            let transition = outputs.take(names::LOGITS)?.softmax(1, None::<Kind>);
            let groups = transition.size()[1];
            // P_{l+1} = P_l · C (Eq. 7).
            let assignment = match levels.last() {
                None => transition,
                Some(below) => transition.matmul(&below.assignment),
            };
            let winner = assignment.argmax(1, false);
            level_features = outputs.take(names::CENTROID_FEATURES)?;
            level_positions = mean_position_of_groups(&positions, &winner, &sets.valid, groups);
            let group_of_segment = sets.gather(&winner) + &image_number * groups;
            levels.push(LevelOfGroups { assignment, group_of_segment, centroids: outputs.take(names::CENTROIDS)? });
        }
        profiler.mark(Stage::Transformers);

        // Own pixels against the segments of all ranks.
        let segments = ranks.rows(base.num_segments)?;
        let all_features = ranks.gather(&segments, &segment_features)?;
        let segment_of_pixel = &base.segment_of_pixel + segments.before;
        let edge_groups = ranks.gather(&segments, &(&image_number * 65536 + &base.edge_of_segment))?;
        let level_groups = levels.iter().map(|level| ranks.gather(&segments, &level.group_of_segment));
        let level_groups: Vec<Tensor> = level_groups.collect::<Result<_>>()?;
        let mut groupings = vec![Grouping { group_of_segment: &edge_groups, weight: settings.weight_edge }];
        let weight = settings.weight_feature;
        groupings.extend(level_groups.iter().map(|group_of_segment| Grouping { group_of_segment, weight }));
        let spec = PixelSegmentSpec {
            concentration: CONCENTRATION,
            sum: settings.positive_sum,
            // Ranks keep different numbers of pixels: so divided, the mean of the ranks' losses is one over all pixels.
            num_pixels: ranks.rows(pixels.size()[0])?.total as f64 / ranks.size() as f64,
            chunk_bytes: if pixels.device().is_cuda() { CHUNK_BYTES_CUDA } else { CHUNK_BYTES_CPU },
        };
        // A CPU has a chunk of pixels with all segments in its cache, but not the blocks of all images.
        let pixel_sets = (self.form == Form::Device).then(|| {
            let image_of_pixel = views.image_of_view.index_select(0, &base.view_of_pixel);
            TokenSets::of_pixels(&image_of_pixel, views.num_images, views.kept_cells)
        });
        let present = base.present.as_ref().map(|present| &present.mask);
        let blocks = pixel_sets.as_ref().map(|pixels| ImageBlocks {
            pixels,
            segments: &sets,
            first_segment: segments.before,
            present,
        });
        let losses =
            pixel_segment_losses(&pixels, &all_features, &segment_of_pixel, &groupings, &spec, blocks.as_ref());
        let mut terms = losses.terms.into_iter();
        let edge = terms.next().unwrap_or_default();
        let feature: Vec<Tensor> = terms.collect();
        profiler.mark(Stage::PixelSegmentLosses);

        let view_of_token = match settings.neighbours {
            Neighbours::Joint(_) => None,
            Neighbours::PerView { .. } => {
                let view = base.view_of_segment.unsqueeze(1).to_kind(Kind::Float);
                Some(sets.scatter(&view).squeeze_dim(1).to_kind(Kind::Int64))
            }
        };
        let graph = neighbour_graph(&tokens, &sets.valid, view_of_token.as_ref(), settings.neighbours);
        let mut grouping = Vec::with_capacity(levels.len());
        for level in &levels {
            // The same value on every rank, so its mean over them too.
            let separation = centroid_separation(&ranks.gather(&images, &level.centroids)?);
            let collapse = match &sets.counted {
                None => collapse(&level.assignment, &sets.valid),
                Some(counted) => collapse_of(&level.assignment, &sets.valid, &counted.number),
            };
            let goodness = modularity(&graph, &level.assignment) + collapse + separation;
            grouping.push(goodness * settings.weight_grouping);
        }
        let total = grouping.iter().fold(losses.total, |total, term| total + term);
        profiler.mark(Stage::GroupingLosses);
        let used = base
            .present
            .as_ref()
            .zip(sets.counted.as_ref())
            .map(|(present, counted)| Tensor::stack(&[&present.number, &counted.number], 0));
        let valid = sets.valid;
        Ok(Objective { total, edge, feature, grouping, base, segment_features, tokens, valid, levels, used })
    }
}

/// Mean position of the members of each group, `[images, m, n]`: `positions` `[images, m, N]`, `winner` `[images, N]`
/// int64. A group without members has position 0.
fn mean_position_of_groups(positions: &Tensor, winner: &Tensor, valid: &Tensor, groups: i64) -> Tensor {
    let ids = Tensor::arange(groups, (Kind::Int64, winner.device()));
    let member = winner.unsqueeze(2).eq_tensor(&ids).to_kind(positions.kind()) * valid.unsqueeze(2);
    let count = member.sum_dim_intlist([1i64].as_slice(), true, None::<Kind>).clamp_min(1.0);
    positions.matmul(&member) / count
}
