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
    lm_saes_tests::mongo_database().map(|address| Place { address, _dir: None })
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
    a_renamed_dictionary_takes_everything_along_and_a_removed_one_leaves_nothing,
    output_tokens_are_put_to_a_finished_analysis,
    what_does_not_exist_is_none_or_an_error_that_names_it,
}

#[test]
fn a_killed_writer_of_the_suite() {
    suite::write_until_killed();
}
