//! One suite for every store: what is written is read back, an analysis is replaced in one instant or not at all, readers go
//! on while one writes, and a writer that is killed leaves what was there. MongoDB takes part in builds with the feature `mongodb`
//! when `LM_SAES_MONGO_URI` names a server.

#[cfg(feature = "mongodb")]
mod foreign;
mod speed;
mod suite;

use lm_saes::store::{self, Store};
use tempfile::TempDir;

/// A fresh, empty place for a store; removed in the end where it is a folder.
struct Place {
    address: String,
    _dir: Option<TempDir>,
}

impl Place {
    fn open(&self) -> Box<dyn Store> {
        store::open(&self.address).unwrap_or_else(|e| panic!("{}: {e}", self.address))
    }
}

fn sqlite() -> Place {
    let dir = tempfile::tempdir().unwrap();
    Place { address: dir.path().join("results.db").display().to_string(), _dir: Some(dir) }
}

#[cfg(feature = "mongodb")]
fn mongo() -> Option<Place> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let uri = std::env::var("LM_SAES_MONGO_URI").ok().filter(|u| !u.is_empty())?;
    let (server, options) = uri.split_once('?').map_or((uri.as_str(), ""), |(s, o)| (s, o));
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let database = format!("lm_saes_test_{}_{n}", std::process::id());
    Some(Place { address: format!("{}/{database}?{options}", server.trim_end_matches('/')), _dir: None })
}

macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod sqlite_store {
            $(#[test] fn $test() { crate::suite::$test(&crate::sqlite()); })*
        }
        #[cfg(feature = "mongodb")]
        mod mongo_store {
            $(#[test] fn $test() {
                match crate::mongo() {
                    Some(place) => crate::suite::$test(&place),
                    None => eprintln!("SKIPPED on MongoDB: LM_SAES_MONGO_URI names no server"),
                }
            })*
        }
    };
}

on_every_store! {
    a_dictionary_is_registered_replaced_renamed_and_removed,
    an_analysis_is_read_back_as_it_was_written,
    features_are_sorted_filtered_and_paged,
    a_random_feature_passes_the_filter,
    a_new_analysis_replaces_the_old_one_and_keeps_what_people_added,
    an_analysis_that_is_not_committed_is_never_seen,
    a_killed_writer_leaves_the_previous_analysis,
    readers_see_one_analysis_or_the_other_while_it_is_replaced,
    text_is_found_in_explanations_and_tokens,
    bookmarks_and_lists_are_kept,
    what_does_not_exist_is_none_or_an_error_that_names_it,
}

#[test]
fn a_killed_writer_of_the_suite() {
    suite::write_until_killed();
}
