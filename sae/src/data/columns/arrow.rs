//! Arrow's IPC formats: the stream that the Python library `datasets` saves, and the file form, which wraps one. An index of
//! where its messages are makes every batch of rows one positioned read.

use super::{super::content::Content, no_column};
use arrow_array::{
    Array, BooleanArray, Float64Array, Int32Array, Int64Array, LargeListArray, LargeStringArray, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray, UInt16Array, UInt32Array,
};
use arrow_buffer::Buffer;
use arrow_ipc::{MessageHeader, convert::try_fb_to_schema, reader::StreamDecoder, root_as_message};
use arrow_schema::{ArrowError, DataType, Schema};
use serde_json::{Value, json};
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

const MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUES: [u8; 4] = [0xff; 4];
/// Longest header of a message believed; schemas of the hub take some kilobytes.
const HEADER: usize = 1 << 26;

/// Where the messages of a file are.
pub struct Index {
    /// Schema and dictionaries: what a batch needs before it.
    before: Vec<(u64, u64)>,
    /// Batches of rows.
    pub batches: Vec<Batch>,
}

/// A batch of rows.
pub struct Batch {
    at: u64,
    bytes: u64,
    /// Rows of it.
    pub rows: u64,
}

/// Walks over the messages of a file.
pub fn index(path: &Path, content: &Content) -> Result<Index, String> {
    let file = File::open(path).map_err(says)?;
    let size = file.metadata().map_err(says)?.len();
    let mut index = Index { before: Vec::new(), batches: Vec::new() };
    let mut schema = None;
    let mut at = if starts_with_magic(&file) { 8 } else { 0 };
    while let Some((length, head)) = header(&file, at, size)? {
        let message =
            root_as_message(&head).map_err(|e| format!("not readable as Arrow at byte {at}: {e}"))?;
        let body = u64::try_from(message.bodyLength())
            .ok()
            .filter(|b| at + length <= size && *b <= size - at - length);
        let bytes = length + body.ok_or("ends in the middle of a batch: the file is cut short")?;
        match message.header_type() {
            MessageHeader::RecordBatch => {
                let rows = message.header_as_record_batch().map_or(0, |b| b.length());
                let rows = u64::try_from(rows).map_err(|_| format!("a batch of {rows} rows at byte {at}"))?;
                index.batches.push(Batch { at, bytes, rows });
            }
            _ => {
                if let Some(found) = message.header_as_schema() {
                    schema = Some(try_fb_to_schema(found).map_err(says_not)?);
                }
                index.before.push((at, bytes));
            }
        }
        at += bytes;
    }
    column(&schema.ok_or("not an Arrow file: it has no schema")?, content)?;
    Ok(index)
}

/// The texts of batch `b`.
pub fn read(path: &Path, content: &Content, index: &Index, b: usize) -> Result<Vec<String>, String> {
    let file = File::open(path).map_err(says)?;
    let Batch { at, bytes, .. } = index.batches[b];
    let mut message = message(&file, at, bytes)?;
    let mut decoder = StreamDecoder::new();
    for &(at, bytes) in &index.before {
        // A schema has no body: the decoder takes it in together with what follows.
        decoder.decode(&mut self::message(&file, at, bytes)?).map_err(says_not)?;
    }
    let batch = decoder.decode(&mut message).map_err(says_not)?;
    let batch = batch.ok_or("a batch without rows")?;
    let at = column(&batch.schema(), content)?;
    match content {
        Content::Text(_) => texts(&batch, at).ok_or_else(|| no_column(content, &[])),
        Content::Messages(_) | Content::Tokens(_) => {
            let column = batch.column(at).as_ref();
            let chat = |row| match json_of(column, row)? {
                Value::Null => Ok(String::new()),
                chat => Ok(chat.to_string()),
            };
            (0..column.len()).map(chat).collect()
        }
    }
}

/// Length of what stands before a message's body, and the message's header itself; nothing at the end of the stream.
fn header(file: &File, at: u64, size: u64) -> Result<Option<(u64, Vec<u8>)>, String> {
    if at >= size {
        return Ok(None);
    }
    let four = |at| -> Result<[u8; 4], String> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).map_err(says)?;
        Ok(bytes)
    };
    // Streams written before 2019 have no continuation mark.
    let first = four(at)?;
    let (word, prefix) = if first == CONTINUES { (four(at + 4)?, 8) } else { (first, 4) };
    let length = u32::from_le_bytes(word) as usize;
    if length == 0 {
        return Ok(None);
    }
    if length > HEADER || at + prefix + length as u64 > size {
        return Err(format!("not an Arrow file, or cut short: a header of {length} bytes at byte {at}"));
    }
    let mut head = vec![0; length];
    file.read_exact_at(&mut head, at + prefix).map_err(says)?;
    Ok(Some((prefix + length as u64, head)))
}

fn message(file: &File, at: u64, bytes: u64) -> Result<Buffer, String> {
    let mut all = vec![0; bytes as usize];
    file.read_exact_at(&mut all, at).map_err(says)?;
    Ok(Buffer::from_vec(all))
}

fn starts_with_magic(file: &File) -> bool {
    let mut start = [0; 6];
    file.read_exact_at(&mut start, 0).is_ok() && start == *MAGIC
}

fn column(schema: &Schema, content: &Content) -> Result<usize, String> {
    let fits = |t: &DataType| match content {
        Content::Text(_) => matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
        Content::Messages(_) | Content::Tokens(_) => matches!(t, DataType::List(_) | DataType::LargeList(_)),
    };
    let found = schema.fields().iter().position(|f| f.name() == content.field() && fits(f.data_type()));
    let names = || schema.fields().iter().filter(|f| fits(f.data_type())).map(|f| f.name().clone());
    found.ok_or_else(|| no_column(content, &names().collect::<Vec<_>>()))
}

/// A value as JSON: lists, structures, text, truth and the usual numbers, which is what messages and token ids are made of.
fn json_of(array: &dyn Array, i: usize) -> Result<Value, String> {
    let any = array.as_any();
    let list =
        |values: &dyn Array| (0..values.len()).map(|i| json_of(values, i)).collect::<Result<Value, _>>();
    if array.is_null(i) {
        Ok(Value::Null)
    } else if let Some(a) = any.downcast_ref::<StringArray>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<LargeStringArray>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<StringViewArray>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<ListArray>() {
        list(&a.value(i))
    } else if let Some(a) = any.downcast_ref::<LargeListArray>() {
        list(&a.value(i))
    } else if let Some(a) = any.downcast_ref::<StructArray>() {
        let field =
            |(name, column): (&str, &arrow_array::ArrayRef)| Ok((name.to_string(), json_of(column, i)?));
        let fields = a.column_names().into_iter().zip(a.columns()).map(field);
        Ok(Value::Object(fields.collect::<Result<_, String>>()?))
    } else if let Some(a) = any.downcast_ref::<BooleanArray>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<Int64Array>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<Int32Array>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<UInt32Array>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<UInt16Array>() {
        Ok(json!(a.value(i)))
    } else if let Some(a) = any.downcast_ref::<Float64Array>() {
        Ok(json!(a.value(i)))
    } else {
        Err(format!("a list holds values of type {}, which is not read", array.data_type()))
    }
}

fn texts(batch: &RecordBatch, column: usize) -> Option<Vec<String>> {
    let any = batch.column(column).as_any();
    let owned = |text: Option<&str>| text.unwrap_or_default().to_string();
    if let Some(a) = any.downcast_ref::<StringArray>() {
        return Some(a.iter().map(owned).collect());
    }
    if let Some(a) = any.downcast_ref::<LargeStringArray>() {
        return Some(a.iter().map(owned).collect());
    }
    any.downcast_ref::<StringViewArray>().map(|a| a.iter().map(owned).collect())
}

fn says_not(e: ArrowError) -> String {
    format!("not readable as Arrow: {e}")
}

fn says(e: io::Error) -> String {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => "cut short".into(),
        _ => e.to_string(),
    }
}
