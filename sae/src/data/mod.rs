//! Text to token batches: text files as numbered records, one explicit policy for turning records into contexts, several
//! weighted sources as one stream. Every position is a few integers, and going to one costs one record.

mod cache;
#[cfg(feature = "parquet")]
mod columns;
mod content;
mod contexts;
mod folder;
mod lines;
mod policy;
pub mod random;
mod record;
mod remote;
mod text;
mod tokens;

pub use cache::{Chunk, ChunkReader, ChunkWriter, Loss, Storage, check_empty};
pub use content::{Content, SampleBy, TextOptions};
pub use contexts::{ContextReader, Order, Place, Tokenize};
pub use policy::{Overflow, TokenBatch, TokenPolicy};
pub use remote::{Remote, open_remote};
pub use text::{Shards, TextSource};
pub use tokens::{Reader, SourceCursor, TokenCursor, TokenStream, WeightedSource};
