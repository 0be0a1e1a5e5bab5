//! Tables of rotary positions. Angles are computed in f32 as Hugging Face does, so that long contexts agree with it; sine and
//! cosine of an angle are then exact to rounding.

use super::architecture::{Rotary, RotaryScaling};
use std::f64::consts::TAU;

/// `(cos, sin)`, each `[len, dim/2]`.
pub fn tables(r: &Rotary, len: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies = frequencies(r);
    let angles = (0..len).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f).sin_cos()));
    angles.map(|(sin, cos)| (cos as f32, sin as f32)).unzip()
}

/// Radians a position, `[dim/2]`.
fn frequencies(r: &Rotary) -> Vec<f32> {
    (0..r.dim / 2)
        .map(|j| {
            let exponent = (2 * j) as f32 / r.dim as f32;
            let plain = 1.0 / (r.base as f32).powf(exponent);
            scaled(f64::from(plain), r.scaling) as f32
        })
        .collect()
}

fn scaled(frequency: f64, scaling: RotaryScaling) -> f64 {
    match scaling {
        RotaryScaling::None => frequency,
        RotaryScaling::Linear { factor } => frequency / factor,
        RotaryScaling::Llama3 { factor, low, high, original_ctx } => {
            let wavelength = TAU / frequency;
            if wavelength > original_ctx / low {
                frequency / factor
            } else if wavelength < original_ctx / high {
                frequency
            } else {
                let keep = (original_ctx / wavelength - low) / (high - low);
                (1.0 - keep) * frequency / factor + keep * frequency
            }
        }
    }
}
