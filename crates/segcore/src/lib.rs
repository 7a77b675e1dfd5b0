//! Shared types and mathematics of the project: images, preprocessing, embedding maps, base segments by spherical
//! k-means, refinement to pixels, the strictly nested hierarchy, and label spaces.
//!
//! Pure Rust, no tensors library and no files; reading and writing PNG and JPEG is behind the feature `image-io`.
//! Hot functions take `&mut self` and the caller's buffers, allocate nothing once warm, and use the *current* rayon
//! pool (`ThreadPool::install` chooses it). Results do not depend on the number of threads.
//! Call them from a thread of that pool (inside `install` or `spawn`): from any other thread they work as well, but rayon's
//! own hand-over queue then allocates one small block every 60 calls or so.
//!
//! Conventions: images are HWC bytes, tensors NCHW `f32`; sizes are width × height in [`image::ImageSize`], shapes are
//! `[h, w]`; equations are those of the paper named in `docs/`, section numbers (§) those of the method description.

pub mod embedding;
pub mod hierarchy;
pub mod image;
#[cfg(feature = "image-io")]
pub mod image_io;
pub mod label_mapping;
#[cfg(feature = "image-io")]
pub mod label_png;
pub mod label_space;
pub mod pixel_kmeans;
pub mod preprocess;
pub mod refine;
pub mod simd;
pub mod spherical_kmeans;
pub mod yuv;

mod parallel;
mod sampling;
