//! The few fields of Foxglove's protobuf messages that are needed.

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire types 0, 1 and 5: what they mean is the field's business.
    Number(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
}

/// Calls `field` for each field of `message`, number and value, in their order.
///
/// # Errors
/// When the bytes are no message.
pub(crate) fn for_each<'a>(mut message: &'a [u8], mut field: impl FnMut(u64, Value<'a>)) -> Result<(), String> {
    let cut = || "expected a protobuf message, got one that is cut or damaged".to_owned();
    while !message.is_empty() {
        let key = varint(&mut message).ok_or_else(cut)?;
        let mut take = |count: usize| {
            let (bytes, rest) = message.split_at_checked(count)?;
            message = rest;
            Some(bytes)
        };
        let value = match key & 7 {
            0 => varint(&mut message).map(Value::Number),
            1 => take(8).and_then(|bytes| bytes.try_into().ok()).map(|bytes| Value::Number(u64::from_le_bytes(bytes))),
            5 => take(4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(|bytes| Value::Number(u32::from_le_bytes(bytes).into())),
            2 => {
                let count = varint(&mut message).and_then(|count| usize::try_from(count).ok()).ok_or_else(cut)?;
                message.split_at_checked(count).map(|(bytes, rest)| {
                    message = rest;
                    Value::Bytes(bytes)
                })
            }
            _ => None,
        };
        field(key >> 3, value.ok_or_else(cut)?);
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
