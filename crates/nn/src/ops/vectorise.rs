//! Plain slice loops compiled for the widest instruction set of the CPU.

/// Defines a function whose body is compiled three times (AVX-512, AVX2, baseline) and chosen when it is called.
///
/// For loops that the compiler vectorises by itself; kernels that need explicit vectors implement `simd::Kernel` instead.
/// Everything that the body calls must be `#[inline(always)]`, or it is compiled for the baseline.
macro_rules! vectorise {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$generic:ident : $bound:path>)? ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take slices, not structures")]
        $vis fn $name $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "kernels take slices, not structures")]
            fn body $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "kernels take slices, not structures")]
                fn avx512 $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::<$generic>)? ($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "kernels take slices, not structures")]
                fn avx2 $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::<$generic>)? ($($arg),*)
                }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                    // SAFETY: the CPU has the instruction sets.
                    return unsafe { avx512 $(::<$generic>)? ($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the CPU has the instruction sets.
                    return unsafe { avx2 $(::<$generic>)? ($($arg),*) };
                }
            }
            body $(::<$generic>)? ($($arg),*)
        }
    };
}

/// Runs `$part::<.., N>(column, args)` for blocks of N = 16, 4, 1 columns until `$width` columns are done: a block's
/// coefficients then stay in registers while the kernel walks down the rows, and narrow rows are vectorised as well.
macro_rules! by_columns {
    ($width:expr, $part:ident $(::<$generic:ident>)? ( $($arg:expr),* $(,)? )) => {{
        let width = $width;
        let mut column = 0;
        while column + 16 <= width {
            $part::<$($generic,)? 16>(column, $($arg),*);
            column += 16;
        }
        while column + 4 <= width {
            $part::<$($generic,)? 4>(column, $($arg),*);
            column += 4;
        }
        while column < width {
            $part::<$($generic,)? 1>(column, $($arg),*);
            column += 1;
        }
    }};
}

pub(crate) use {by_columns, vectorise};
