//! Which instruction set to use, found once, and the macro that compiles one loop for each of them.

use std::sync::OnceLock;

/// Instruction sets the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 as below and AMX tiles of bfloat16, which only large products use.
    Amx,
    /// x86-64 with AVX-512 F, BW, DQ, VL.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// aarch64, whose baseline has NEON with fused multiply-add.
    Neon,
    /// The compilation target's baseline.
    Portable,
}

impl Isa {
    /// The best one this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// Every one this processor has, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                if amx::granted() {
                    found.push(Self::Amx);
                }
                found.push(Self::Avx512);
            }
            if avx2 {
                found.push(Self::Avx2);
            }
        }
        if cfg!(target_arch = "aarch64") {
            found.push(Self::Neon);
        }
        found.push(Self::Portable);
        found
    }

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amx => "AVX-512, AMX",
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "portable",
        }
    }
}

/// Whether this process may use AMX: the processor has it, and the system saves its registers once asked to.
#[cfg(target_arch = "x86_64")]
mod amx {
    #[cfg(target_os = "linux")]
    pub(super) fn granted() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
        // SAFETY: the instruction exists on every x86-64 processor.
        // Newer compilers know it is safe.
        #[allow(unused_unsafe)]
        let features = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
        features & TILES_AND_BF16 == TILES_AND_BF16 && request_permission()
    }

    /// Linux hands out the tile registers only to processes that ask (arch_prctl, since 5.16).
    #[cfg(target_os = "linux")]
    fn request_permission() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const TILE_DATA: usize = 18;
        let mut result = ARCH_PRCTL;
        // SAFETY: a system call that takes two numbers and touches no memory of ours; an older kernel refuses it.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn granted() -> bool {
        false
    }
}

/// Defines a function whose body is compiled once for each instruction set and chosen at run time. Inside, `FMA` says
/// whether `mul_add` is one instruction (on the portable path it would be a call).
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            unsafe fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the same contract as the outer function.
                unsafe { body::<true>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the same contract as the outer function.
                unsafe { body::<true>($($arg),*) }
            }
            // SAFETY: the features were detected; the contract is the caller's.
            unsafe {
                match $crate::cpu::Isa::best() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Amx | $crate::cpu::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Avx2 => avx2($($arg),*),
                    $crate::cpu::Isa::Neon => body::<true>($($arg),*),
                    _ => body::<false>($($arg),*),
                }
            }
        }
    };
}
