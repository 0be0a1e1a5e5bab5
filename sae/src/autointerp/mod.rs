//! Auto-interpretation: sentences about features, written and tested by a language model behind an HTTP endpoint
//! (ANALYSIS §5).
//!
//! [`Examples`] chooses texts from the store, [`Explanation`] asks for a sentence and reads it, [`Test`] asks questions with known
//! answers and scores it. Who is asked is a [`Chat`]; [`OpenAi`] is one, [`Patient`] asks any of them again where that may help.
//! The job itself is [`crate::runners::auto_interp`].
//!
//! Differences from the reference system: scores are kept with the explanation; scorers use texts the explainer did not see
//! wherever there are enough; texts without activation work, and are not always the beginning of a context; there is a test for
//! the feature itself (intruder); texts cannot forge marks or lines of the question.

mod chat;
mod examples;
mod explain;
mod openai;
mod reply;
mod score;

pub use chat::{Chat, Fault, Patience, Patient, Question, Reply, Usage};
pub use examples::{Example, Examples};
pub use explain::Explanation;
pub use openai::{OPENAI, OpenAi};
pub use score::Test;
