// The words of CUDA C: types, intrinsics, atomics, warp collectives. Included by shim.h.
// compile.py rewrites __global__, __shared__ and __launch_bounds__, which are no matter of macros.
#pragma once

#ifdef CU_CHECKED  // an aggregate that a call returns into memory is written behind the hooks: leave no calls
#define __device__ __attribute__((visibility("hidden"), always_inline))
#else
#define __device__ __attribute__((visibility("hidden")))
#endif
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// ------------------------------------------------------------------ vectors
#define CU_VECTOR2(T, N, A) \
    struct __align__(A) N##2 { T x, y; }; \
    __forceinline__ N##2 make_##N##2(T x, T y) { N##2 v; v.x = x; v.y = y; return v; }
#define CU_VECTOR4(T, N, A) \
    struct __align__(A) N##4 { T x, y, z, w; }; \
    __forceinline__ N##4 make_##N##4(T x, T y, T z, T w) { N##4 v; v.x = x; v.y = y; v.z = z; v.w = w; return v; }
CU_VECTOR2(signed char, char, 2)
CU_VECTOR2(unsigned char, uchar, 2)
CU_VECTOR2(short, short, 4)
CU_VECTOR2(unsigned short, ushort, 4)
CU_VECTOR2(int, int, 8)
CU_VECTOR2(unsigned, uint, 8)
CU_VECTOR2(float, float, 8)
CU_VECTOR2(long long, longlong, 16)
CU_VECTOR2(unsigned long long, ulonglong, 16)
CU_VECTOR2(double, double, 16)
CU_VECTOR4(signed char, char, 4)
CU_VECTOR4(unsigned char, uchar, 4)
CU_VECTOR4(short, short, 8)
CU_VECTOR4(unsigned short, ushort, 8)
CU_VECTOR4(int, int, 16)
CU_VECTOR4(unsigned, uint, 16)
CU_VECTOR4(float, float, 16)

// ------------------------------------------------------------------ numbers
#define CU_EXACT(T, name, expr) NOSAN inline T name(T a, T b) { return expr; }
CU_EXACT(double, __dadd_rn, a + b)
CU_EXACT(double, __dsub_rn, a - b)
CU_EXACT(double, __dmul_rn, a * b)
CU_EXACT(double, __ddiv_rn, a / b)
CU_EXACT(float, __fadd_rn, a + b)
CU_EXACT(float, __fsub_rn, a - b)
CU_EXACT(float, __fmul_rn, a * b)
CU_EXACT(float, __fdiv_rn, a / b)
NOSAN inline double __dsqrt_rn(double a) { return sqrt(a); }
NOSAN inline float __fsqrt_rn(float a) { return sqrtf(a); }
NOSAN inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
NOSAN inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
NOSAN inline float __double2float_rn(double a) { return (float)a; }
NOSAN inline int __double2int_rn(double a) { return (int)rint(a); }
NOSAN inline int __float2int_rn(float a) { return (int)rintf(a); }
NOSAN inline long long __double2ll_rn(double a) { return (long long)rint(a); }
NOSAN inline float __int2float_rn(int a) { return (float)a; }
NOSAN inline double __int2double_rn(int a) { return (double)a; }
NOSAN inline double __ll2double_rn(long long a) { return (double)a; }
NOSAN inline float __ll2float_rn(long long a) { return (float)a; }
NOSAN inline unsigned __float_as_uint(float a) { return (unsigned)cu::bits(a); }
NOSAN inline int __float_as_int(float a) { return (int)cu::bits(a); }
NOSAN inline float __uint_as_float(unsigned a) { return cu::from<float>(a); }
NOSAN inline float __int_as_float(int a) { return cu::from<float>((unsigned)a); }
NOSAN inline long long __double_as_longlong(double a) { return (long long)cu::bits(a); }
NOSAN inline double __longlong_as_double(long long a) { return cu::from<double>((uint64_t)a); }

NOSAN inline int __popc(unsigned a) { return __builtin_popcount(a); }
NOSAN inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
NOSAN inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
NOSAN inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
NOSAN inline int __ffs(int a) { return __builtin_ffs(a); }
NOSAN inline int __ffsll(long long a) { return __builtin_ffsll(a); }
NOSAN inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
NOSAN inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
NOSAN inline unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i);
    return r;
}
NOSAN inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = s >> 4 * i, byte = both >> 8 * (pick & 7) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;  // the sign, repeated
        r |= byte << 8 * i;
    }
    return r;
}
NOSAN inline int __dp4a(int a, int b, int c) {
    unsigned sum = (unsigned)c;
    for (int i = 0; i < 32; i += 8) sum += (unsigned)((int)(int8_t)(a >> i) * (int)(int8_t)(b >> i));
    return (int)sum;
}
NOSAN inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
    return c;
}

template <class A, class B> NOSAN inline typename std::common_type<A, B>::type min(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return fmin((T)a, (T)b);  // CUDA's min passes over a NaN
    return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B> NOSAN inline typename std::common_type<A, B>::type max(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return fmax((T)a, (T)b);
    return (T)a < (T)b ? (T)b : (T)a;
}

// ------------------------------------------------------------------ memory
#define CU_CACHED(name) template <class T> __forceinline__ T name(const T* p) { return *p; }
CU_CACHED(__ldg)
CU_CACHED(__ldcg)
CU_CACHED(__ldcs)
NOSAN inline void __threadfence() {}
NOSAN inline void __threadfence_block() {}

namespace cu {
template <class T> struct As { typedef T type; };  // not deduced: the value converts to the memory's type, as in CUDA
template <class T, class... U> constexpr bool one_of = (std::is_same<T, U>::value || ...);
typedef unsigned long long ull;
typedef long long ll;
template <class T, class F> NOSAN __forceinline__ T update(T* p, F f) {
#ifdef CU_CHECKED
    atomic(p, sizeof *p, __builtin_return_address(0));  // of the atomic...() that this is a part of: the kernel's line
#endif
    T old = *p;
    *p = f(old);
    return old;
}
}  // namespace cu
#define CU_ATOMIC(name, expr, ...) \
    template <class T> NOSAN inline T name(T* p, typename cu::As<T>::type v) { \
        static_assert(cu::one_of<T, __VA_ARGS__>, #name " does not exist for this type in CUDA"); \
        return cu::update(p, [=](T old) NOSAN { return (T)(expr); }); \
    }
CU_ATOMIC(atomicAdd, old + v, int, unsigned, cu::ull, float, double)
CU_ATOMIC(atomicSub, old - v, int, unsigned)
CU_ATOMIC(atomicMin, v < old ? v : old, int, unsigned, cu::ull, cu::ll)
CU_ATOMIC(atomicMax, old < v ? v : old, int, unsigned, cu::ull, cu::ll)
CU_ATOMIC(atomicOr, old | v, int, unsigned, cu::ull)
CU_ATOMIC(atomicAnd, old & v, int, unsigned, cu::ull)
CU_ATOMIC(atomicXor, old ^ v, int, unsigned, cu::ull)
CU_ATOMIC(atomicExch, v, int, unsigned, cu::ull, float)
template <class T> NOSAN inline T atomicCAS(T* p, typename cu::As<T>::type expected, typename cu::As<T>::type v) {
    static_assert(cu::one_of<T, int, unsigned, cu::ull, unsigned short>, "atomicCAS does not exist for this type in CUDA");
    return cu::update(p, [=](T old) NOSAN { return old == expected ? v : old; });
}

// ------------------------------------------------------------------ blocks and warps
#define __syncthreads() ((void)cu::barrier(__LINE__, false))
#define __syncthreads_count(p) ((int)cu::barrier(__LINE__, !!(p)))
#define __syncthreads_or(p) ((int)(cu::barrier(__LINE__, !!(p)) != 0))
#define __syncthreads_and(p) ((int)(cu::barrier(__LINE__, !(p)) == 0))
#define __syncwarp(...) cu::sync_warp(__LINE__ __VA_OPT__(,) __VA_ARGS__)
#define __ballot_sync(m, p) ((unsigned)cu::warp_op(cu::BALLOT, m, !!(p), 0, __LINE__))
#define __any_sync(m, p) ((int)cu::warp_op(cu::ANY, m, !!(p), 0, __LINE__))
#define __all_sync(m, p) ((int)cu::warp_op(cu::ALL, m, !!(p), 0, __LINE__))
#define __match_any_sync(m, v) ((unsigned)cu::warp_op(cu::MATCH, m, cu::bits(v), 0, __LINE__))
#define __shfl_sync(...) cu::shfl(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) cu::shfl_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) cu::shfl_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) cu::shfl_up(__LINE__, __VA_ARGS__)
#define __reduce_add_sync(m, v) cu::fold<cu::Add>(__LINE__, m, v)
#define __reduce_min_sync(m, v) cu::fold<cu::Min>(__LINE__, m, v)
#define __reduce_max_sync(m, v) cu::fold<cu::Max>(__LINE__, m, v)
#define __reduce_or_sync(m, v) cu::fold<cu::Or>(__LINE__, m, v)
#define __reduce_and_sync(m, v) cu::fold<cu::And>(__LINE__, m, v)

namespace cu {
NOSAN inline void sync_warp(int line, unsigned mask = 0xffffffffu) { warp_op(SYNC, mask, 0, 0, line); }

#define CU_SHFL(name, arg, expr) \
    template <class T> NOSAN inline T name(int line, unsigned mask, T v, arg a, int width = 32) { \
        int lane = cur->lane, first = lane & ~(width - 1), source = expr; \
        return from<T>(warp_op(SHFL, mask, bits(v), source, line)); \
    }
CU_SHFL(shfl, int, first + (a & (width - 1)))
CU_SHFL(shfl_xor, int, (lane ^ a) < first + width ? lane ^ a : lane)
CU_SHFL(shfl_down, unsigned, lane + (int)a < first + width ? lane + (int)a : lane)
CU_SHFL(shfl_up, unsigned, lane - (int)a >= first ? lane - (int)a : lane)

#define CU_FOLD(name, expr) struct name { template <class T> static NOSAN T of(T a, T b) { return expr; } };
CU_FOLD(Add, a + b)
CU_FOLD(Min, b < a ? b : a)
CU_FOLD(Max, a < b ? b : a)
CU_FOLD(Or, a | b)
CU_FOLD(And, a & b)
template <class F, class T> NOSAN uint64_t folded(uint64_t a, uint64_t b) { return bits(F::of(from<T>(a), from<T>(b))); }
template <class F, class T> NOSAN inline T fold(int line, unsigned mask, T v) {
    static_assert(one_of<T, int, unsigned>, "__reduce_*_sync takes int or unsigned");
    return from<T>(warp_op(FOLD, mask, bits(v), 0, line, folded<F, T>));
}
}  // namespace cu
