//! Folding the data-set norms into the weights, exactly, for every selection. With `a_l = √d/N_in`, `b_t = √d/N_out` a
//! feature may take any positive scale c:
//!   W_E[l] ← c·a_l·W_E[l]    b_E[l] ← c·b_E[l]    W_D[t][l] ← W_D[t][l]/(c·b_t)    b_D[t] ← b_D[t]/b_t
//! gives the same reconstructions as long as the same features are selected. Where nothing is ranked, c = 1/a_l keeps the
//! encoder and brings activations to the scale of raw inputs. Otherwise c makes what is ranked what it was:
//! * ranked by h·n: c = n, and the folded dictionary ranks without n, which folding to different b_t would change;
//! * layers ranked against each other by h: c = 1;
//! * jumprelu compares h·n with θ: h with θ/n, without n. (The window of its gradient is one width for all features and stays.)

use super::{Clt, work::joint};
use crate::{
    Result,
    dictionary::{TINY, reciprocals},
    settings::ActFn,
};
use lm_saes_runtime::{DType, MapKind, Queue, Tensor};

impl Clt {
    pub(super) fn fold_norms(&mut self, q: &mut Queue) -> Result<()> {
        let (a, b) = self.base.folding_factors()?;
        let (act_fn, gated) = (self.base.settings.act_fn(), self.base.settings.gated());
        let mut norms = q.empty(1, self.p.layers * self.p.s, DType::F32)?;
        self.p.decoder_norms(q, &mut norms)?;
        for l in 0..self.p.layers {
            self.fold_layer(q, l, &norms, (a[l], &b))?;
        }
        // What is ranked changes only where c = 1/a of each layer.
        if act_fn == ActFn::BatchTopK && !gated {
            self.base.running.scale(&a.iter().map(|a| 1.0 / a).collect::<Vec<_>>());
        }
        for (b_d, b) in self.p.b_d.iter_mut().zip(&b) {
            q.map_in_place(MapKind::Affine, 1.0 / b, 0.0, &mut b_d.value)?;
        }
        if gated && act_fn != ActFn::Relu {
            self.base.settings.common.sparsity_include_decoder_norm = false;
        }
        self.base.folded();
        Ok(())
    }

    fn fold_layer(&mut self, q: &mut Queue, l: usize, norms: &Tensor, (a, b): (f32, &[f32])) -> Result<()> {
        let (act_fn, gated, own, s) =
            (self.base.settings.act_fn(), self.base.settings.gated(), self.p.of(l), self.p.s);
        // c of each feature and its inverse, [1, S].
        let (mut c, mut inverse) = (q.empty(1, s, DType::F32)?, q.empty(1, s, DType::F32)?);
        match (act_fn.has_k(), gated) {
            (true, true) => q.copy(norms.view().slice_cols(own.clone()), &mut c)?,
            (true, false) if joint(act_fn) => q.fill(&mut c, 1.0)?,
            _ => q.fill(&mut c, 1.0 / a)?,
        }
        reciprocals(q, &c, &mut inverse)?;
        if let (Some(log_theta), true) = (&mut self.p.log_theta, gated) {
            // θ/n; a feature without decoder writes nothing whatever it compares.
            let mut theta = q.empty(1, s, DType::F32)?;
            let mut log = log_theta.value.rows_mut(l..l + 1);
            q.map(MapKind::Exp, log.as_view(), 0.0, 0.0, &mut theta)?;
            let n: Vec<f32> = q.download(norms.view().slice_cols(own.clone()))?;
            let theta: Vec<f32> = q.download(&theta)?;
            let folded = theta.iter().zip(&n).map(|(t, n)| (t / n.max(TINY) / a).ln()).collect::<Vec<f32>>();
            q.upload(&folded, log.reborrow())?;
        } else if let Some(log_theta) = &mut self.p.log_theta {
            q.map_in_place(MapKind::Affine, 1.0, -a.ln(), log_theta.value.rows_mut(l..l + 1))?;
        }
        let w_e = self.p.w_e.value.rows_mut(own.clone());
        q.zip_in_place(MapKind::Mul, c.view().reshaped(s, 1), a, 0.0, w_e)?;
        q.zip_in_place(MapKind::Mul, &c, 1.0, 0.0, self.p.b_e.value.rows_mut(l..l + 1))?;
        for (w_d, b) in self.p.w_d.iter_mut().zip(b).skip(l) {
            let w = w_d.value.rows_mut(own.clone());
            q.zip_in_place(MapKind::Mul, inverse.view().reshaped(s, 1), 1.0 / b, 0.0, w)?;
        }
        Ok(())
    }
}
