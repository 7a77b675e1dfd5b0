//! The sequence parameter set of H.264 (ITU-T H.264 §7.3.2.1.1 and annex E): what kind of video it is.

/// How luma and colour differences become RGB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColorDescription {
    /// "matrix_coefficients" (ITU-T H.273 table 4); none or 2 = not said.
    pub matrix: Option<u8>,
    /// Luma 0–255 rather than 16–235.
    pub full_range: bool,
}

/// What a sequence parameter set says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceParameters {
    /// Pixels, after cropping.
    pub width: u32,
    /// Pixels, after cropping.
    pub height: u32,
    /// 0 = grey, 1 = 4:2:0, 2 = 4:2:2, 3 = 4:4:4.
    pub chroma_format: u32,
    /// Bits per sample of luma and of the colour differences.
    pub bit_depth: (u32, u32),
    /// Whether pictures are whole frames only.
    pub progressive: bool,
    /// Colours; none where the stream does not say.
    pub color: Option<ColorDescription>,
}

/// Bits, most significant first, of a unit whose emulation prevention bytes are passed over.
struct Bits<'a> {
    bytes: &'a [u8],
    zeros: usize,
    current: u8,
    left: u32,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            let (first, mut rest) = self.bytes.split_first()?;
            let mut byte = *first;
            if self.zeros >= 2 && byte == 3 {
                self.zeros = 0;
                let (first, after) = rest.split_first()?;
                (byte, rest) = (*first, after);
            }
            self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
            (self.bytes, self.current, self.left) = (rest, byte, 8);
        }
        self.left -= 1;
        Some(u32::from(self.current >> self.left) & 1)
    }

    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        self.bit().map(|bit| bit == 1)
    }

    /// "ue(v)".
    fn number(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }

    /// "se(v)".
    fn signed(&mut self) -> Option<i32> {
        let number = i64::from(self.number()?);
        i32::try_from(if number % 2 == 1 { (number + 1) / 2 } else { -number / 2 }).ok()
    }
}

impl SequenceParameters {
    /// Reads a unit of type 7, its header byte included; none when it is another unit or cut.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        let (header, body) = unit.split_first()?;
        if header & 0x1f != 7 {
            return None;
        }
        let mut bits = Bits { bytes: body, zeros: 0, current: 0, left: 0 };
        let profile = bits.bits(8)?;
        bits.bits(16)?; // constraints, level
        bits.number()?; // id
        let (mut chroma_format, mut bit_depth, mut separate_planes) = (1, (8, 8), false);
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma_format = bits.number()?;
            separate_planes = chroma_format == 3 && bits.flag()?;
            bit_depth = (bits.number()?.checked_add(8)?, bits.number()?.checked_add(8)?);
            bits.flag()?; // lossless transform bypass
            if bits.flag()? {
                let lists = if chroma_format == 3 { 12 } else { 8 };
                for list in 0..lists {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.number()?; // frame number bits
        match bits.number()? {
            0 => {
                bits.number()?;
            }
            1 => {
                bits.flag()?;
                bits.signed()?;
                bits.signed()?;
                let count = bits.number()?;
                if count > 255 {
                    return None;
                }
                for _ in 0..count {
                    bits.signed()?;
                }
            }
            _ => {}
        }
        bits.number()?; // reference frames
        bits.flag()?; // gaps allowed
        let width_blocks = bits.number()?.checked_add(1)?;
        let height_units = bits.number()?.checked_add(1)?;
        let progressive = bits.flag()?;
        if !progressive {
            bits.flag()?; // field or frame per block
        }
        bits.flag()?; // direct inference
        let field_factor = if progressive { 1 } else { 2 };
        let (mut width, mut height) =
            (width_blocks.checked_mul(16)?, height_units.checked_mul(16)?.checked_mul(field_factor)?);
        if bits.flag()? {
            let (left, right, top, bottom) = (bits.number()?, bits.number()?, bits.number()?, bits.number()?);
            let planar = if separate_planes { 0 } else { chroma_format };
            let unit_x = if matches!(planar, 1 | 2) { 2 } else { 1 };
            let unit_y = field_factor * if planar == 1 { 2 } else { 1 };
            width = width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
            height = height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
        }
        let color = if bits.flag()? { color(&mut bits) } else { None };
        Some(Self { width, height, chroma_format, bit_depth, progressive, color })
    }
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            next = last.checked_add(bits.signed()?)?.checked_add(256)?.rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// The first fields of annex E, up to the colours.
fn color(bits: &mut Bits<'_>) -> Option<ColorDescription> {
    const EXTENDED_ASPECT: u32 = 255;
    if bits.flag()? && bits.bits(8)? == EXTENDED_ASPECT {
        bits.bits(32)?;
    }
    if bits.flag()? {
        bits.flag()?; // overscan
    }
    if !bits.flag()? {
        return None;
    }
    bits.bits(3)?; // video format
    let full_range = bits.flag()?;
    let mut matrix = None;
    if bits.flag()? {
        bits.bits(16)?; // primaries, transfer
        matrix = u8::try_from(bits.bits(8)?).ok();
    }
    Some(ColorDescription { matrix, full_range })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits as text, with `ue` numbers in decimal between spaces.
    fn unit(fields: &[(u32, u32)]) -> Vec<u8> {
        let mut text = String::new();
        for (value, width) in fields {
            match width {
                // Exponential Golomb.
                0 => {
                    let code = format!("{:b}", value + 1);
                    text.push_str(&"0".repeat(code.len() - 1));
                    text.push_str(&code);
                }
                width => text.push_str(&format!("{value:0width$b}", width = *width as usize)),
            }
        }
        text.push('1');
        while !text.len().is_multiple_of(8) {
            text.push('0');
        }
        let mut bytes = vec![0x67];
        let mut zeros = 0;
        for byte in text.as_bytes().chunks(8) {
            let byte = u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap();
            if zeros >= 2 && byte <= 3 {
                bytes.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            bytes.push(byte);
        }
        bytes
    }

    /// Main profile, 1920×1080 cropped from 1088 rows, BT.709 full range.
    const FULL_HD: [(u32, u32); 22] = [
        (77, 8),
        (0, 16),
        (0, 0),
        (0, 0),
        (0, 0),
        (0, 0),
        (1, 0),
        (0, 1),
        (119, 0),
        (67, 0),
        (1, 1),
        (1, 1),
        (1, 1),
        (0, 0),
        (0, 0),
        (0, 0),
        (4, 0),
        (1, 1),
        (0, 2),
        (0b11_0111, 6),
        (0x0101, 16),
        (1, 8),
    ];

    #[test]
    fn full_hd_is_read() {
        let parameters = SequenceParameters::parse(&unit(&FULL_HD)).unwrap();
        assert_eq!((parameters.width, parameters.height), (1920, 1080));
        assert_eq!((parameters.chroma_format, parameters.bit_depth, parameters.progressive), (1, (8, 8), true));
        assert_eq!(parameters.color, Some(ColorDescription { matrix: Some(1), full_range: true }));
    }

    #[test]
    fn cut_units_are_none() {
        let whole = unit(&FULL_HD);
        for length in 0..whole.len() - 5 {
            let _ = SequenceParameters::parse(&whole[..length]);
        }
        assert_eq!(SequenceParameters::parse(&whole[..6]), None);
        assert_eq!(SequenceParameters::parse(&[0x68, 1, 2, 3]), None);
        assert_eq!(SequenceParameters::parse(&[0x67; 4]), None);
    }

    #[test]
    fn ten_bit_and_422_are_seen() {
        let fields = [
            (122, 8),
            (0, 16),
            (0, 0),
            (2, 0),
            (2, 0),
            (2, 0),
            (0, 1),
            (0, 1),
            (0, 0),
            (0, 0),
            (0, 0),
            (1, 0),
            (0, 1),
            (9, 0),
            (9, 0),
            (1, 1),
            (1, 1),
            (0, 1),
            (0, 1),
        ];
        let parameters = SequenceParameters::parse(&unit(&fields)).unwrap();
        assert_eq!((parameters.chroma_format, parameters.bit_depth), (2, (10, 10)));
        assert_eq!((parameters.width, parameters.height, parameters.color), (160, 160, None));
    }
}
