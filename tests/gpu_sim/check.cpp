// The hooks of -fsanitize=thread, ours instead of the library's: bounds, alignment, races, shared memory that nobody wrote.
// A place of memory is ordered after an access if a barrier lies between, or a collective of the same warp.
#include <sys/mman.h>

#include "runtime.h"

namespace cu {
struct Access {
    uint32_t block, epoch, warp_epoch, pc;
    uint16_t thread;
    bool atomic;
    uint8_t more;  // of reads: others read since, see below
};
struct Place { Access write, read; };
enum { SAME_WARP = 1, OTHER_WARP = 2, OTHER_BLOCK = 4 };

struct Watched {  // a stretch of memory and its places
    Range range;
    unsigned item;  // bytes of a place
    Place* places;
    bool shared;
};
static std::vector<Watched> watched;
static size_t last;  // most accesses fall where the last one fell
static Place* arena;
static size_t arena_size;
// The number of this block, and of the launch's first, counted over all launches: places need no clearing.
static uint32_t stamp, first_stamp;

static Place* places(size_t& used, size_t count) {
    Place* here = arena + used;
    used += count;
    return here;
}
void check_launch(const Setup& s) {
    size_t total = (statics.high - statics.low) + MOST_DYNAMIC, used = 0;
    for (unsigned i = 0; i < s.buffers; i++) total += s.buffer[i].size / s.buffer[i].item + 1;
    if (total > arena_size) {
        if (arena) munmap(arena, arena_size * sizeof(Place));
        arena_size = total * 2;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        arena = (Place*)mmap(0, arena_size * sizeof(Place), PROT_READ | PROT_WRITE, flags, -1, 0);
        stamp = 0;
    }
    first_stamp = stamp + 1;
    last = 0;
    watched.clear();
    watched.push_back({statics, 1, places(used, statics.high - statics.low), true});
    watched.push_back({{dyn, dyn + s.dynamic}, 1, places(used, MOST_DYNAMIC), true});
    for (unsigned i = 0; i < s.buffers; i++) {
        const Buffer& b = s.buffer[i];
        watched.push_back({{b.start, b.start + b.size}, b.item, places(used, b.size / b.item + 1), false});
    }
}
void check_block() { stamp++; }

static bool known(const Access& a, bool shared) { return shared ? a.block == stamp : a.block >= first_stamp; }
static bool ordered(const Access& a, unsigned thread) {
    if (a.block != stamp) return false;
    if (a.thread == thread || a.epoch != epoch) return true;
    return a.thread / 32 == thread / 32 && a.warp_epoch != warp_epoch[thread / 32];
}
static bool reads_ordered(const Access& a, unsigned thread) {
    if (a.more & OTHER_BLOCK || !ordered(a, thread)) return false;
    if (a.epoch != epoch) return true;
    if (a.more & OTHER_WARP) return false;
    return !(a.more & SAME_WARP && a.warp_epoch == warp_epoch[thread / 32]);
}
static void note_read(Access& old, const Access& now, bool was_known) {
    uint8_t more = 0;
    if (was_known) {
        more = old.more & OTHER_BLOCK;
        if (old.block != now.block) {
            more |= OTHER_BLOCK;
        } else if (old.epoch == now.epoch) {
            more |= old.more & OTHER_WARP;
            if (old.thread / 32 != now.thread / 32) more |= OTHER_WARP;
            else if (old.warp_epoch == now.warp_epoch) more |= old.thread != now.thread ? SAME_WARP : old.more & SAME_WARP;
        }
    }
    bool atomic = now.atomic && (!more || old.atomic);
    old = now;
    old.more = more;
    old.atomic = atomic;
}
static void race(const Watched& w, const Place& place, const Access& old, const Access& now, const char* did, bool write) {
    fail("race on %s memory, byte %zu of %zu: thread %u %s it @%x@, thread %u of block %u %s it @%x@ with no barrier between",
         w.shared ? "shared" : "global", (&place - w.places) * (size_t)w.item, (size_t)(w.range.high - w.range.low), old.thread,
         did, old.pc, now.thread, block_number, write ? "writes" : "reads", now.pc);
}
static void visit(const Watched& w, Place& place, const Access& now, bool write, bool update) {
    bool written = known(place.write, w.shared), read = known(place.read, w.shared);
    if (w.shared && !written && (!write || update))
        fail("uninitialised shared memory: thread %u of block %u reads @%x@ what nobody wrote", now.thread, block_number,
             now.pc);
    if (written && !(place.write.atomic && now.atomic) && !ordered(place.write, now.thread))
        race(w, place, place.write, now, "wrote", write);
    if (write && read && !(place.read.atomic && now.atomic) && !reads_ordered(place.read, now.thread))
        race(w, place, place.read, now, "read", write);
    if (write) place.write = now;
    else note_read(place.read, now, read);
}
static const Watched* find(const char* p, unsigned size) {
    if (watched[last].range.has(p, size)) return &watched[last];
    for (size_t i = 0; i < watched.size(); i++)
        if (watched[i].range.has(p, size)) {
            last = i;
            return &watched[i];
        }
    return nullptr;
}
static void out_of_bounds(const char* p, unsigned size, bool write, unsigned pc) {
    const Watched* nearest = nullptr;
    for (auto& w : watched)
        if (!nearest || llabs(p - w.range.high) < llabs(p - nearest->range.high)) nearest = &w;
    fail("out of bounds: thread %u of block %u %s %u bytes @%x@, %+ld bytes from the end of the nearest array", cur->number,
         block_number, write ? "writes" : "reads", size, pc, (long)(p - nearest->range.high));
}
static void look(const volatile void* where, unsigned size, bool write, bool atomic, bool aligned, bool update, void* caller) {
    if (!cur) return;
    auto p = (const char*)where;
    if (p >= stacks && p < stacks + STACK * MOST_THREADS) return;  // a thread's own variables
    unsigned pc = (unsigned)((const char*)caller - image.low);
    const Watched* w = find(p, size);
    if (!w) {
        bool dynamic = p >= dyn && p < dyn + MOST_DYNAMIC;
        if (image.has(p) && !dynamic) return;  // constants, threadIdx
        out_of_bounds(p, size, write, pc);
    }
    if (aligned && (uintptr_t)p % size)
        fail("misaligned: thread %u of block %u %s %u bytes @%x@", cur->number, block_number, write ? "writes" : "reads", size,
             pc);
    Access now{stamp, epoch, warp_epoch[cur->warp], pc, (uint16_t)cur->number, atomic, 0};
    size_t start = p - w->range.low;
    for (size_t i = start / w->item; i <= (start + size - 1) / w->item; i++) visit(*w, w->places[i], now, write, update);
    pause();
}
void atomic(const volatile void* where, unsigned size, void* caller) { look(where, size, true, true, true, true, caller); }
}  // namespace cu

#define CALLER __builtin_return_address(0)
#define HOOK(n) \
    void __tsan_read##n(void* p) { cu::look(p, n, false, false, true, false, CALLER); } \
    void __tsan_write##n(void* p) { cu::look(p, n, true, false, true, false, CALLER); } \
    void __tsan_unaligned_read##n(void* p) { cu::look(p, n, false, false, false, false, CALLER); } \
    void __tsan_unaligned_write##n(void* p) { cu::look(p, n, true, false, false, false, CALLER); } \
    void __tsan_volatile_read##n(void* p) { cu::look(p, n, false, true, true, false, CALLER); } \
    void __tsan_volatile_write##n(void* p) { cu::look(p, n, true, true, true, false, CALLER); }
extern "C" {
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
void __tsan_read_range(void* p, size_t n) { cu::look(p, (unsigned)n, false, false, false, false, CALLER); }
void __tsan_write_range(void* p, size_t n) { cu::look(p, (unsigned)n, true, false, false, false, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

struct SourceLocation { const char* file; uint32_t line, column; };
struct Mismatch { SourceLocation at; const void* type; uint8_t log_alignment, kind; };
void __ubsan_handle_type_mismatch_v1(Mismatch* data, uintptr_t p) {
    const char* what = p & ((1ul << data->log_alignment) - 1) ? "misaligned" : "out of bounds: null";
    cu::fail("%s: thread %u of block %u uses %#zx at %s:%u", what, cu::cur ? cu::cur->number : 0, cu::block_number, p,
             data->at.file, data->at.line);
}
void __ubsan_handle_out_of_bounds(SourceLocation* at, uintptr_t index) {
    cu::fail("out of bounds: thread %u of block %u uses index %ld of a smaller array at %s:%u", cu::cur ? cu::cur->number : 0,
             cu::block_number, (long)index, at->file, at->line);
}
}
