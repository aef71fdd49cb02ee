// The sm_90a instructions that C++ has no word for, one function each: mbarriers, TMA, cp.async,
// stmatrix, wgmma. Shared memory addresses are 32-bit, as smem() gives them. Source: PTX ISA 8.7,
// sections named beside.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define CONCLAVE_DEVICE __device__ __forceinline__

namespace conclave::kernels::ptx {

CONCLAVE_DEVICE uint32_t smem(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// What this thread wrote to shared memory by ordinary means is seen by TMA and wgmma (9.7.13.4).
CONCLAVE_DEVICE void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- mbarrier (9.7.13.15)
CONCLAVE_DEVICE void mbarrier_init(uint32_t b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(arrivals));
}
CONCLAVE_DEVICE void mbarrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One arrival, and `bytes` of TMA that must land before the phase ends.
CONCLAVE_DEVICE void mbarrier_expect(uint32_t b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes)
               : "memory");
}
CONCLAVE_DEVICE void mbarrier_arrive(uint32_t b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}
CONCLAVE_DEVICE void mbarrier_wait(uint32_t b, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nW:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\n"
      "bra W;\nD:\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}

// --- TMA (9.7.9.25): boxes of a tensor map, innermost coordinate first
CONCLAVE_DEVICE void tma_prefetch(const CUtensorMap* m) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(m) : "memory");
}
CONCLAVE_DEVICE void tma_load(uint32_t to, const CUtensorMap* m, uint32_t barrier, int x, int y,
                              int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(to),
      "l"(m), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
CONCLAVE_DEVICE void tma_store(const CUtensorMap* m, uint32_t from, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(m),
      "r"(from), "r"(x), "r"(y)
      : "memory");
}
// Adds what lies in shared memory to the box, element by element, in L2 (9.7.9.25.5.3).
CONCLAVE_DEVICE void tma_add(const CUtensorMap* m, uint32_t from, int x, int y, int z) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], "
      "[%1];" ::"l"(m),
      "r"(from), "r"(x), "r"(y), "r"(z)
      : "memory");
}
CONCLAVE_DEVICE void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all but the newest n groups of this thread's stores have read shared memory.
template <int n>
CONCLAVE_DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory");
}
CONCLAVE_DEVICE void tma_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// --- cp.async (9.7.9.24): copies of a thread; arrive when this thread's copies so far have landed
CONCLAVE_DEVICE void cp_async16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
// 16 bytes, or as many zeros if there is nothing.
CONCLAVE_DEVICE void cp_async16(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
// 4 bytes, of which `bytes` are read and the rest are zero.
CONCLAVE_DEVICE void cp_async4(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
CONCLAVE_DEVICE void cp_async_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
CONCLAVE_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the newest n groups of this thread's copies have landed.
template <int n>
CONCLAVE_DEVICE void cp_async_wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
CONCLAVE_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// --- registers and shared memory
template <int n>
CONCLAVE_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
CONCLAVE_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
// Four 8 × 8 matrices of bf16; lane 8 i + r gives the address of row r of matrix i.
CONCLAVE_DEVICE void stmatrix4(uint32_t to, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}
CONCLAVE_DEVICE uint4 load_shared16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
CONCLAVE_DEVICE void store_shared8(uint32_t to, float v0, float v1) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(v0), "f"(v1) : "memory");
}
// --- pairs of bf16 in a register, quick exponential and reciprocal
CONCLAVE_DEVICE uint32_t pack(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
CONCLAVE_DEVICE float low(uint32_t v) { return __uint_as_float(v << 16); }
CONCLAVE_DEVICE float high(uint32_t v) { return __uint_as_float(v & 0xFFFF0000u); }
CONCLAVE_DEVICE float exp2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// NaN if either is.
CONCLAVE_DEVICE float min_or_nan(float x, float y) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
}
CONCLAVE_DEVICE float max_or_nan(float x, float y) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
}
CONCLAVE_DEVICE float reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// --- wgmma (9.7.15): D [64, 256] (+)= A [64, 16] · B [256, 16]ᵀ, or 128 columns of it. A lane
// holds d[4 j + {0, 1}] = row lane / 4, columns 8 j + 2 (lane mod 4) + {0, 1}, and d[4 j + {2, 3}]
// 8 rows below.
//
// How an operand lies in shared memory: rows of 128 bytes in the 128-byte swizzle, which hold 64 of
// k (by_k: a row of A or B each) or 64 of A's or B's rows (by_row: one of k each; 64 rows of k of
// 128 bytes are a block, blocks follow each other). 9.7.15.5.1.2.
enum class Major { by_k, by_row };

template <Major major>
CONCLAVE_DEVICE uint64_t wgmma_descriptor(uint32_t tile) {
  constexpr uint64_t kFromBlockToBlock = major == Major::by_k ? 1 : 64 * 128 / 16;
  return static_cast<uint64_t>((tile & 0x3FFFF) >> 4) | (kFromBlockToBlock << 16) | (64ull << 32) |
         (1ull << 62);
}
// What the descriptor grows by for the next 16 of k.
template <Major major>
constexpr uint64_t kNextDepth = major == Major::by_k ? 16 * 2 / 16 : 16 * 128 / 16;

CONCLAVE_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CONCLAVE_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int n>
CONCLAVE_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
#define CONCLAVE_8(i)                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define CONCLAVE_32(i) CONCLAVE_8(i), CONCLAVE_8(i + 8), CONCLAVE_8(i + 16), CONCLAVE_8(i + 24)
// D's first kColumns columns, B [kColumns, 16].
template <int kColumns, Major a_major, Major b_major>
CONCLAVE_DEVICE void wgmma(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  constexpr int kTransA = a_major == Major::by_row, kTransB = b_major == Major::by_row;
  static_assert(kColumns == 128 || kColumns == 256);
  if constexpr (kColumns == 256)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "
        "%125, %126, %127}, %128, %129, p, 1, 1, %131, %132;\n}"
        : CONCLAVE_32(0), CONCLAVE_32(32), CONCLAVE_32(64), CONCLAVE_32(96)
        : "l"(a), "l"(b), "r"(accumulate), "n"(kTransA), "n"(kTransB));
  else
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, %67, %68;\n}"
        : CONCLAVE_32(0), CONCLAVE_32(32)
        : "l"(a), "l"(b), "r"(accumulate), "n"(kTransA), "n"(kTransB));
}
#undef CONCLAVE_8
#undef CONCLAVE_32

}  // namespace conclave::kernels::ptx
