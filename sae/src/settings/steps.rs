//! Durations in training steps, written as a count or as a fraction of the whole run (TRAINING §2).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// An integer is a number of steps; a float between 0 and 1 is a fraction of all steps. So `1` is one step and `1.0` is
/// the whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Steps {
    /// This many steps.
    Count(u64),
    /// This part of all steps.
    Fraction(f64),
}

impl Steps {
    /// Number of steps in a run of `total`; fractions are truncated.
    pub fn resolve(self, total: u64) -> u64 {
        match self {
            Self::Count(n) => n,
            Self::Fraction(f) => (f * total as f64) as u64,
        }
    }
}

impl Serialize for Steps {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(n) => s.serialize_u64(*n),
            Self::Fraction(f) => s.serialize_f64(*f),
        }
    }
}

impl<'de> Deserialize<'de> for Steps {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Steps;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of steps (integer) or a fraction of the run (float from 0 to 1)")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Steps, E> {
                Ok(Steps::Count(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Steps, E> {
                u64::try_from(n)
                    .map(Steps::Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_f64<E: de::Error>(self, f: f64) -> Result<Steps, E> {
                if (0.0..=1.0).contains(&f) {
                    Ok(Steps::Fraction(f))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(f), &self))
                }
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Steps, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn integers_are_steps_and_floats_are_truncated_fractions() {
        assert_eq!(read("1").unwrap().resolve(40), 1);
        assert_eq!(read("1.0").unwrap().resolve(40), 40);
        assert_eq!(read("0.29").unwrap().resolve(10), 2);
        assert_eq!(serde_json::to_string(&read("1.0").unwrap()).unwrap(), "1.0");
    }

    #[test]
    fn a_fraction_above_one_and_a_negative_count_are_refused() {
        assert!(read("1.5").unwrap_err().to_string().contains("fraction of the run"));
        assert!(read("-3").is_err());
    }
}
