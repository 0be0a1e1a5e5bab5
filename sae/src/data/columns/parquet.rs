//! Parquet: row groups, read in chunks.

use super::{super::content::Content, no_column};
use parquet::{
    basic::Type,
    column::reader::ColumnReader,
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
    schema::types::{self, SchemaDescriptor, TypePtr},
};
use serde_json::{Value, json};
use std::{fs::File, path::Path};

/// Rows decoded at a time. Files of the hub have groups of a thousand; others put everything into one.
const ROWS: usize = 4096;

/// Some rows of a row group.
pub struct Chunk {
    group: usize,
    skip: usize,
    /// How many.
    pub rows: usize,
}

/// The chunks of a file.
pub fn index(path: &Path, content: &Content) -> Result<Vec<Chunk>, String> {
    let reader = open(path)?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr();
    match content {
        Content::Text(_) => drop(column(schema, content)?),
        Content::Messages(_) | Content::Tokens(_) => drop(lists(schema, content)?),
    }
    let mut chunks = Vec::new();
    for group in 0..metadata.num_row_groups() {
        let rows = metadata.row_group(group).num_rows();
        let rows = usize::try_from(rows).map_err(|_| format!("row group {group} has {rows} rows"))?;
        chunks.extend((0..rows).step_by(ROWS).map(|skip| Chunk { group, skip, rows: ROWS.min(rows - skip) }));
    }
    Ok(chunks)
}

/// The texts of a chunk.
pub fn read(path: &Path, content: &Content, chunk: &Chunk) -> Result<Vec<String>, String> {
    let reader = open(path)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    if !matches!(content, Content::Text(_)) {
        return as_json(&reader, lists(schema, content)?, chunk);
    }
    let at = column(schema, content)?;
    let group = reader.get_row_group(chunk.group).map_err(says)?;
    let ColumnReader::ByteArrayColumnReader(mut column) = group.get_column_reader(at).map_err(says)? else {
        return Err(no_column(content, &[]));
    };
    if column.skip_records(chunk.skip).map_err(says)? != chunk.skip {
        return Err(format!("row group {} ends early", chunk.group));
    }
    let (mut values, mut present) = (Vec::new(), Vec::new());
    let (rows, ..) = column.read_records(chunk.rows, Some(&mut present), None, &mut values).map_err(says)?;
    let mut values = values.into_iter();
    let mut text = |there: bool| match there.then(|| values.next()).flatten() {
        Some(bytes) => bytes.as_utf8().map(String::from).map_err(says),
        None => Ok(String::new()),
    };
    // A required column has no levels: every row has its value.
    (0..rows).map(|i| text(present.get(i).is_none_or(|&level| level > 0))).collect()
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    SerializedFileReader::new(file).map_err(says)
}

/// The number of the column of strings of this name, which stands by itself and not in a list or structure.
fn column(schema: &SchemaDescriptor, content: &Content) -> Result<usize, String> {
    let text = |c: &types::ColumnDescPtr| {
        c.physical_type() == Type::BYTE_ARRAY && c.max_rep_level() == 0 && c.path().parts().len() == 1
    };
    let names = || schema.columns().iter().filter(|c| text(c)).map(|c| c.name().to_string());
    let found = schema.columns().iter().position(|c| text(c) && c.name() == content.field());
    found.ok_or_else(|| no_column(content, &names().collect::<Vec<_>>()))
}

/// The column of lists of this name.
fn lists(schema: &SchemaDescriptor, content: &Content) -> Result<TypePtr, String> {
    let all = || schema.root_schema().get_fields().iter().filter(|f| f.is_group());
    let names = || all().map(|f| f.name().to_string()).collect::<Vec<_>>();
    all().find(|f| f.name() == content.field()).cloned().ok_or_else(|| no_column(content, &names()))
}

/// The lists of a chunk as JSON.
fn as_json(
    reader: &SerializedFileReader<File>,
    column: TypePtr,
    chunk: &Chunk,
) -> Result<Vec<String>, String> {
    let root = reader.metadata().file_metadata().schema_descr().root_schema().name().to_string();
    let only = types::Type::group_type_builder(&root).with_fields(vec![column]).build().map_err(says)?;
    let group = reader.get_row_group(chunk.group).map_err(says)?;
    let rows = group.get_row_iter(Some(only)).map_err(says)?.skip(chunk.skip).take(chunk.rows);
    rows.map(|row| {
        let row = row.map_err(says)?;
        let value = row.get_column_iter().next().map_or(Value::Null, |(_, field)| json_of(field));
        Ok(if value.is_null() { String::new() } else { value.to_string() })
    })
    .collect()
}

/// What templates can use of a value; dates and numbers without exact JSON become text.
fn json_of(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => json!(v),
        Field::Byte(v) => json!(v),
        Field::Short(v) => json!(v),
        Field::Int(v) => json!(v),
        Field::Long(v) => json!(v),
        Field::UByte(v) => json!(v),
        Field::UShort(v) => json!(v),
        Field::UInt(v) => json!(v),
        Field::ULong(v) => json!(v),
        Field::Float(v) => json!(v),
        Field::Double(v) => json!(v),
        Field::Str(v) => json!(v),
        Field::ListInternal(list) => list.elements().iter().map(json_of).collect(),
        Field::Group(row) => {
            Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), json_of(field))).collect())
        }
        other => json!(other.to_string()),
    }
}

fn says(e: ParquetError) -> String {
    format!("not readable as parquet: {e}")
}
