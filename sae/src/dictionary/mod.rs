//! Dictionaries.
