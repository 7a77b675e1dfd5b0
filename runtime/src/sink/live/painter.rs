//! Frames become pictures, on a thread of its own per stream (`hsg-live-draw`). \[F8\]
//!
//! It draws what somebody waits for and nothing else, on one processor, and of a low priority: a busy machine has its
//! frames first, the page later.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use jpeg_encoder::{ColorType, Encoder};
use segcore::label_space::LabelSpace;

use super::exchange::Exchange;
use crate::sink::maps::Ancestors;
use crate::sink::panel::Panel;

/// Niceness of the thread, 0 (as everybody) to 19.
const NICENESS: i32 = 10;

/// How pictures are drawn.
#[derive(Clone, Debug)]
pub(super) struct PainterSpec {
    pub label_space: LabelSpace,
    pub has_classes: bool,
    /// Widest picture, pixels.
    pub width: usize,
    /// Of the JPEGs, 1 to 100.
    pub quality: u8,
}

/// Draws until the exchange is closed; `ready` hears when it has all that it needs to wait for the first frame.
pub(super) fn run(exchange: &Arc<Exchange>, spec: &PainterSpec, ready: SyncSender<()>) {
    // Of this thread alone, as Linux counts; where it is refused, it is as nice as everybody.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    // The drawing is made for many threads; here it has this one.
    match rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build() {
        Ok(pool) => pool.install(|| paint(exchange, spec, ready)),
        Err(error) => log::warn!("--live: no pictures, as there is no thread to draw them: {error}"),
    }
}

fn paint(exchange: &Exchange, spec: &PainterSpec, ready: SyncSender<()>) {
    let mut ancestors = Ancestors::default();
    // A drawer has large tables: only those that are asked for are made.
    let mut panels: Vec<Option<Panel>> = exchange.views().iter().map(|_| None).collect();
    let (mut wanted, mut usual_bytes) = (Vec::new(), 1 << 16);
    // Nobody listens any more: then it is over soon.
    let _ = ready.send(());
    drop(ready);
    while let Some(frame) = exchange.next_frame(&mut wanted) {
        ancestors.update(&frame);
        for &view in &wanted {
            let only = exchange.views()[view].0;
            let panel = panels[view]
                .get_or_insert_with(|| Panel::within(spec.label_space.clone(), spec.has_classes, only, spec.width));
            // A frame that cannot be drawn is refused by the files in words; the page waits for the next one.
            let Some((pixels, size)) = panel.draw(&frame, &ancestors) else { continue };
            let mut jpeg = Vec::with_capacity(usual_bytes);
            // Pictures are below 65536 pixels in both directions by their layout.
            let (width, height) = (size.width as u16, size.height as u16);
            match Encoder::new(&mut jpeg, spec.quality).encode(pixels, width, height, ColorType::Rgb) {
                Ok(()) => {
                    usual_bytes = jpeg.len() + jpeg.len() / 8;
                    exchange.show(view, frame.frame.index, jpeg);
                }
                Err(error) => log::debug!("--live: a picture of {size} could not be encoded: {error}"),
            }
        }
        exchange.give_back(frame);
    }
}
