//! Attention and its rotary embedding.

use super::{assert_gradient, dot, reference, values};
use lm_saes_runtime::{AttentionGradArgs, DType, HeadsArgs, Queue, Tensor};

const HEADS: HeadsArgs = HeadsArgs { batch: 2, len: 4, heads: 2, d_head: 3, d_value: 5, scale: 0.7 };
const ROWS: usize = HEADS.batch * HEADS.len;

/// ⟨dz, z⟩.
fn loss(q: &mut Queue, operands: &[Tensor; 3], dz: &[f32]) -> f64 {
    let mut z = q.empty(ROWS, HEADS.heads * HEADS.d_value, DType::F32).unwrap();
    let [query, key, value] = operands;
    q.attention(query, key, value, &mut z, None, HEADS.into()).unwrap();
    dot(&q.download::<f32>(&z).unwrap(), dz)
}

#[test]
fn attention_grad_is_the_gradient_of_attention_with_values_of_another_width() {
    let q = &mut reference();
    let (narrow, wide) = (HEADS.heads * HEADS.d_head, HEADS.heads * HEADS.d_value);
    let widths = [narrow, narrow, wide];
    let host = [1, 2, 3].map(|i| values(i, ROWS * widths[i as usize - 1]));
    let mut at = [0, 1, 2].map(|i| q.tensor(ROWS, widths[i], &host[i]).unwrap());
    let dz_host = values(4, ROWS * wide);
    let dz = q.tensor(ROWS, wide, &dz_host).unwrap();
    let [mut dq, mut dk, mut dv] = widths.map(|w| q.empty(ROWS, w, DType::F32).unwrap());
    let operands = AttentionGradArgs {
        q: at[0].view(),
        k: at[1].view(),
        v: at[2].view(),
        dz: dz.view(),
        dq: dq.view_mut(),
        dk: dk.view_mut(),
        dv: dv.view_mut(),
    };
    q.attention_grad(operands, HEADS).unwrap();
    for (i, (name, gradient)) in [("q", dq), ("k", dk), ("v", dv)].into_iter().enumerate() {
        let gradient: Vec<f32> = q.download(&gradient).unwrap();
        assert_gradient(name, &host[i], &gradient, 1e-2, 1e-4, |moved| {
            q.upload(moved, &mut at[i]).unwrap();
            loss(q, &at, &dz_host)
        });
        q.upload(&host[i], &mut at[i]).unwrap();
    }
}

#[test]
fn turning_back_is_the_gradient_of_the_rotary_turn() {
    for adjacent in [false, true] {
        let q = &mut reference();
        let (d_head, cols) = (5, 10);
        let table = |f: fn(f32) -> f32| (0..4 * 2).map(|i| f(0.3 + i as f32)).collect::<Vec<_>>();
        let cos = q.tensor(4, 2, &table(f32::cos)).unwrap();
        let sin = q.tensor(4, 2, &table(f32::sin)).unwrap();
        let pos = q.tensor(1, 3, &[3u32, 0, 2]).unwrap();
        let (x, dy_host) = (values(5, 3 * cols), values(6, 3 * cols));
        let mut dy = q.tensor(3, cols, &dy_host).unwrap();
        q.rope_back(&mut dy, &pos, (&cos, &sin), d_head, adjacent).unwrap();
        let gradient: Vec<f32> = q.download(&dy).unwrap();
        assert_gradient("x", &x, &gradient, 0.5, 1e-5, |x| {
            let mut y = q.tensor(3, cols, x).unwrap();
            q.rope(&mut y, &pos, (&cos, &sin), d_head, adjacent).unwrap();
            dot(&q.download::<f32>(&y).unwrap(), &dy_host)
        });
    }
}
