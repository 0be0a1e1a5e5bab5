//! Parquet: row groups, read in chunks.

use super::no_column;
use parquet::{
    basic::Type,
    column::reader::ColumnReader,
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::SchemaDescriptor,
};
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
pub fn index(path: &Path, field: &str) -> Result<Vec<Chunk>, String> {
    let reader = open(path)?;
    let metadata = reader.metadata();
    column(metadata.file_metadata().schema_descr(), field)?;
    let mut chunks = Vec::new();
    for group in 0..metadata.num_row_groups() {
        let rows = metadata.row_group(group).num_rows();
        let rows = usize::try_from(rows).map_err(|_| format!("row group {group} has {rows} rows"))?;
        chunks.extend((0..rows).step_by(ROWS).map(|skip| Chunk { group, skip, rows: ROWS.min(rows - skip) }));
    }
    Ok(chunks)
}

/// The texts of a chunk.
pub fn read(path: &Path, field: &str, chunk: &Chunk) -> Result<Vec<String>, String> {
    let reader = open(path)?;
    let at = column(reader.metadata().file_metadata().schema_descr(), field)?;
    let group = reader.get_row_group(chunk.group).map_err(says)?;
    let ColumnReader::ByteArrayColumnReader(mut column) = group.get_column_reader(at).map_err(says)? else {
        return Err(no_column(field, &[]));
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

/// The number of the column of strings named `field`, which stands by itself and not in a list or structure.
fn column(schema: &SchemaDescriptor, field: &str) -> Result<usize, String> {
    let text = |c: &parquet::schema::types::ColumnDescPtr| {
        c.physical_type() == Type::BYTE_ARRAY && c.max_rep_level() == 0 && c.path().parts().len() == 1
    };
    let names = || schema.columns().iter().filter(|c| text(c)).map(|c| c.name().to_string());
    let found = schema.columns().iter().position(|c| text(c) && c.name() == field);
    found.ok_or_else(|| no_column(field, &names().collect::<Vec<_>>()))
}

fn says(e: ParquetError) -> String {
    format!("not readable as parquet: {e}")
}
