// What the kernels say in PTX, since C++ has no word for it: copies to shared memory that nobody waits for, and products on the tensor cores.
// All of the kernels' inline assembly stands here, so that a host can take this file's place (bench/emulated-gpu).
#pragma once

// Copies 4 VEC bytes to shared memory without waiting; zeros if not `real`.
template <int VEC> __device__ __forceinline__ void copy(float* to, const float* from, bool real) {
    unsigned shared = (unsigned)__cvta_generic_to_shared(to);
    int bytes = real ? 4 * VEC : 0;
    if (VEC == 4)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared), "l"(from), "r"(bytes));
}

// Ends a group of copies.
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;\n"); }

// Until all but the last LEFT groups of this thread's copies have arrived; other threads see them after a barrier.
template <int LEFT> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT)); }

// v rounded to TF32: to the nearest, away from zero in the middle.
__device__ __forceinline__ unsigned tf32(float v) {
    unsigned r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

// Four matrices of 8 x 4 numbers out of shared memory: lane i says where row i % 8 of matrix i / 8 is, and gets the numbers in row i / 4, column i % 4 of all four.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const float* row) {
    unsigned shared = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

// c += a b for a warp: a 16 x 8 by rows, b 8 x 8 by columns, both in TF32, each lane with its share of the fragments as PTX deals them out.
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
