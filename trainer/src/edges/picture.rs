//! An image with the borders of its regions.

use segcore::image::ImageSize;

/// Paints pixels red whose right or lower neighbour is in another region.
pub(super) fn draw_borders(rgb: &mut [u8], size: ImageSize, labels: &[u16]) {
    for y in 0..size.height {
        for x in 0..size.width {
            let i = y * size.width + x;
            let right = x + 1 < size.width && labels[i + 1] != labels[i];
            let below = y + 1 < size.height && labels[i + size.width] != labels[i];
            if right || below {
                rgb[3 * i..3 * i + 3].copy_from_slice(&[255, 0, 0]);
            }
        }
    }
}
