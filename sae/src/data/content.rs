//! What a record is and what is taken of it: the same for files of lines and files of columns.

use serde::{Deserialize, Serialize};

/// What one record of a `.txt` file is; the names are those of the Hugging Face text loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// Every line that is not blank.
    #[default]
    Line,
    /// Lines up to the next blank one.
    Paragraph,
    /// The whole file.
    Document,
}

/// What a record gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The text in this field of a `.jsonl` record or column of a parquet or Arrow file.
    Text(String),
    /// The list of messages in this one, as JSON.
    Messages(String),
    /// The list of token ids in this one, as JSON.
    Tokens(String),
}

impl Content {
    /// The field or column.
    pub fn field(&self) -> &str {
        match self {
            Self::Text(field) | Self::Messages(field) | Self::Tokens(field) => field,
        }
    }
}

/// How records are found in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// What a record gives.
    pub content: Content,
    /// What one record of a `.txt` file is.
    pub sample_by: SampleBy,
    /// Which part is taken of a folder that is a data set with splits.
    pub split: String,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { content: Content::Text("text".into()), sample_by: SampleBy::Line, split: "train".into() }
    }
}
