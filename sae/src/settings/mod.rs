//! What users write in settings files: names and defaults as in the reference system.
