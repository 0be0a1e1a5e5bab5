//! Language models: configuration, weights, one decoder-only forward with hook points, tokenizers.
