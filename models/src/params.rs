//! Names, shapes and initial values of a network's parameters, derived from its [`Graph`](crate::graph::Graph).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::weights::{Tensor, Weights};

/// How a parameter gets its value before training (method.md §2: no pre-training, everything from scratch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamInit {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal distribution with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in `low..high`.
    Uniform(f32, f32),
}

impl ParamInit {
    /// Backbone convolutions: N(0, 2 / (k·k·c_out)), weight shape `[o, i, kh, kw]`.
    pub fn backbone_conv(shape: &[usize; 4]) -> Self {
        ParamInit::Normal((2.0 / (shape[2] * shape[3] * shape[0]) as f32).sqrt())
    }

    /// PyTorch's default for linear and convolution layers: Kaiming-uniform with a = √5, that is ±1/√fan_in. The
    /// bias of such a layer has the same bound.
    pub fn pytorch_default(fan_in: usize) -> Self {
        let bound = 1.0 / (fan_in as f32).sqrt();
        ParamInit::Uniform(-bound, bound)
    }

    /// Xavier-uniform for a matrix `[out, in]`: ±√(6 / (in + out)).
    pub fn xavier_uniform(fan_out: usize, fan_in: usize) -> Self {
        let bound = (6.0 / (fan_in + fan_out) as f32).sqrt();
        ParamInit::Uniform(-bound, bound)
    }
}

/// A parameter that a graph reads: learned by gradient, or a running statistic of a batch normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The authors' name, for example `resnet_backbone.res2.0.conv1.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its value before training.
    pub init: ParamInit,
}

impl ParamSpec {
    /// Running mean or variance: moved by batch statistics, never by a gradient.
    pub fn is_running_statistic(&self) -> bool {
        self.name.ends_with(".running_mean") || self.name.ends_with(".running_var")
    }

    /// The seeded initial value. Each parameter has its own random stream, derived from the seed and its name, so
    /// adding a layer does not change the others.
    pub fn initial(&self, seed: u64) -> Tensor {
        let mut hasher = Sha256::new();
        hasher.update(seed.to_le_bytes());
        hasher.update(self.name.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(hasher.finalize().into());
        let count = self.shape.iter().product();
        let values = match self.init {
            ParamInit::Zeros => vec![0.0; count],
            ParamInit::Ones => vec![1.0; count],
            ParamInit::Uniform(low, high) => (0..count).map(|_| low + (high - low) * rng.random::<f32>()).collect(),
            ParamInit::Normal(std) => (0..count).map(|_| std * normal(&mut rng)).collect(),
        };
        Tensor { shape: self.shape.clone(), values }
    }
}

/// A standard normal value (Box–Muller, cosine branch).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

/// Seeded initial values of all `params`.
pub fn initial_weights(params: &[ParamSpec], seed: u64) -> Weights {
    params.iter().map(|p| (p.name.clone(), p.initial(seed))).collect()
}
