// Runs a launch: blocks one after another, the threads of a block as fibers that switch at barriers and warp collectives.
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

asm(R"(
.hidden cu_switch
.globl cu_switch
cu_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi); mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");
extern "C" __attribute__((visibility("hidden"))) void cu_switch(void** save, void* to);

namespace cu {
enum State { READY, AT_BARRIER, IN_WARP, EXITED };
struct Fiber : Lane {
    State state;
    int line, source;
    void* stack;
    uint64_t value, result;
};
struct Group {  // lanes that wait for the others of their mask
    unsigned mask, arrived;
    int line;
    Op op;
};
struct Warp {
    Group group[32];
    int count;
};

Lane* cur;
uint3 bid, bdim, gdim;
alignas(256) char dyn[MOST_DYNAMIC];
char* stacks;
unsigned threads, block_number, epoch, warp_epoch[MOST_WARPS], dynamic_bytes;
Range image, statics;
std::string error;

static Fiber fibers[MOST_THREADS];
static Warp warps[MOST_WARPS];
static unsigned ready[MOST_THREADS], head, waiting;  // a ring of fibers that can run
static unsigned arrived, votes, vote_result, exited, order, preempt;
static int barrier_line;
static uint64_t random_state;
static void* main_stack;
static const Kernel* kernel_now;
static void** args_now;
static thread_local char anchor;  // touching it makes this thread's __shared__ variables exist

unsigned random_below(unsigned n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * n >> 32);
}

static void push(unsigned i) {
    fibers[i].state = READY;
    ready[(head + waiting++) % MOST_THREADS] = i;
}
static Fiber* pop() {
    if (!waiting) return nullptr;
    if (order == 2) std::swap(ready[head], ready[(head + random_below(waiting)) % MOST_THREADS]);
    unsigned i = ready[head];
    head = (head + 1) % MOST_THREADS;
    waiting--;
    return &fibers[i];
}
static void leave() {  // to the next fiber that can run, or to the launch if there is none
    Fiber* self = (Fiber*)cur;
    Fiber* next = error.empty() ? pop() : nullptr;
    cur = next;
    if (next != self) cu_switch(&self->stack, next ? next->stack : main_stack);
}
void pause() {
    if (preempt && random_below(preempt) == 0) {
        push(cur->number);
        leave();
    }
}
void fail(const char* format, ...) {
    char text[500];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (error.empty()) error = text;
    if (cur) leave();
}
static void enter() {
    kernel_now->call(kernel_now->function, args_now);
    ((Fiber*)cur)->state = EXITED;
    exited++;
    leave();
}

unsigned barrier(int line, bool vote) {
    Fiber* self = (Fiber*)cur;
    if (arrived && barrier_line != line)
        fail("divergent barrier: block %u, threads wait on lines %d and %d", block_number, barrier_line, line);
    barrier_line = line;
    votes += vote;
    if (++arrived < threads) {
        self->state = AT_BARRIER;
        self->line = line;
        leave();
        return vote_result;
    }
    vote_result = votes;
    arrived = votes = 0;
    epoch++;
    for (unsigned i = 0; i < threads; i++) {
        unsigned j = order == 1 ? threads - 1 - i : i;
        if (j != self->number) push(j);
    }
    return vote_result;
}

static uint64_t result_of(const Group& g, const Fiber* lane, const Fiber& f, uint64_t ballot) {
    switch (g.op) {
        case SHFL:
            if (!(g.mask >> f.source & 1))
                fail("line %d: a shuffle reads lane %d, which its mask leaves out", g.line, f.source);
            return lane[f.source].value;
        case BALLOT: return ballot;
        case ANY: return ballot != 0;
        case ALL: return ballot == g.mask;
        case MATCH: {
            uint64_t same = 0;
            for (unsigned m = g.mask; m; m &= m - 1) {
                unsigned i = __builtin_ctz(m);
                if (lane[i].value == f.value) same |= 1ull << i;
            }
            return same;
        }
        default: return 0;
    }
}
static void complete(unsigned w, Group g, Fold fold) {
    Fiber* lane = fibers + 32 * w;
    uint64_t ballot = 0, folded = 0;
    for (unsigned m = g.mask; m; m &= m - 1) {
        unsigned i = __builtin_ctz(m);
        ballot |= (uint64_t)(lane[i].value != 0) << i;
        if (fold) folded = m == g.mask ? lane[i].value : fold(folded, lane[i].value);
    }
    for (unsigned m = g.mask; m; m &= m - 1) {
        Fiber& f = lane[__builtin_ctz(m)];
        f.result = fold ? folded : result_of(g, lane, f, ballot);
    }
    warp_epoch[w]++;
    for (unsigned k = 0; k < 32; k++) {
        unsigned i = order == 1 ? 31 - k : k;
        if (g.mask >> i & 1 && &lane[i] != cur) push(32 * w + i);
    }
}
uint64_t warp_op(Op op, unsigned mask, uint64_t value, int source, int line, Fold fold) {
    Fiber* self = (Fiber*)cur;
    Warp& warp = warps[self->warp];
    unsigned bit = 1u << self->lane;
    if (!(mask & bit)) fail("line %d: thread %u is not in the mask of its own warp collective", line, self->number);
    self->value = value;
    self->source = source;
    int at = 0;
    while (at < warp.count && !(warp.group[at].line == line && warp.group[at].mask == mask && warp.group[at].op == op)) at++;
    if (at == warp.count) warp.group[warp.count++] = {mask, 0, line, op};
    Group& group = warp.group[at];
    if ((group.arrived |= bit) == mask) {
        Group whole = group;
        group = warp.group[--warp.count];
        complete(self->warp, whole, fold);
    } else {
        self->state = IN_WARP;
        self->line = line;
        leave();
    }
    return self->result;
}

static void explain_deadlock() {
    for (unsigned w = 0; 32 * w < threads; w++) {
        if (!warps[w].count) continue;
        Group g = warps[w].group[0];
        for (unsigned m = g.mask & ~g.arrived; m; m &= m - 1) {
            unsigned i = 32 * w + __builtin_ctz(m);
            const char* why = i >= threads                       ? "which does not exist"
                              : fibers[i].state == EXITED     ? "which has exited"
                              : fibers[i].state == AT_BARRIER ? "which waits at a barrier"
                                                              : "which waits in another warp collective";
            return fail("divergent warp collective on line %d: block %u waits for thread %u, %s", g.line, block_number, i, why);
        }
    }
    fail("divergent barrier on line %d: block %u, %u threads wait and %u have exited", barrier_line, block_number, arrived,
         exited);
}
static void start_fiber(unsigned i) {
    Fiber& f = fibers[i];
    f.tid = {i % bdim.x, i / bdim.x % bdim.y, i / (bdim.x * bdim.y)};
    f.number = i;
    f.lane = i % 32;
    f.warp = i / 32;
    void** top = (void**)(stacks + STACK * (i + 1) - i % 61 * 64);  // shifted: else all stacks compete for the same cache lines
    *--top = nullptr;
    *--top = (void*)enter;
    f.stack = top - 6;
    push(f.number);
}
static void run_block() {
    memset((void*)statics.low, 0xA5, statics.high - statics.low);
    memset(dyn, 0xA5, dynamic_bytes);
    memset(warp_epoch, 0, sizeof warp_epoch);
    for (auto& warp : warps) warp.count = 0;
    head = waiting = arrived = votes = exited = epoch = 0;
    check_block();
    for (unsigned i = 0; i < threads; i++) start_fiber(order == 1 ? threads - 1 - i : i);
    Fiber* first = pop();
    cur = first;
    cu_switch(&main_stack, first->stack);
    cur = nullptr;
    if (error.empty() && exited < threads) explain_deadlock();
}

static int find_image(dl_phdr_info* info, size_t, void*) {
    auto base = (const char*)info->dlpi_addr;
    const char* high = base;
    size_t tls = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        auto& h = info->dlpi_phdr[i];
        if (h.p_type == PT_LOAD && base + h.p_vaddr + h.p_memsz > high) high = base + h.p_vaddr + h.p_memsz;
        if (h.p_type == PT_TLS) tls = h.p_memsz;
    }
    auto here = (const char*)&find_image;
    if (here < base || here >= high) return 0;
    image = {base, high};
    auto start = (const char*)info->dlpi_tls_data;
    statics = {start, start + (start ? tls : 0)};
    return 1;
}

// A crash or an endless loop of a kernel ends the launch, not the process.
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM}, SIGNAL_COUNT = 4;
static sigjmp_buf crash_exit;
static void on_signal(int number) { siglongjmp(crash_exit, number); }

struct Guard {
    stack_t stack_before;
    struct sigaction before[SIGNAL_COUNT];
    timer_t timer;

    explicit Guard(unsigned seconds) {
        static char alternate[64 << 10];
        stack_t ours{alternate, 0, sizeof alternate};
        sigaltstack(&ours, &stack_before);
        struct sigaction action{};
        action.sa_handler = on_signal;
        action.sa_flags = SA_ONSTACK;
        for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &action, &before[i]);
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGVTALRM;
        event._sigev_un._tid = gettid();
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
        itimerspec when{{0, 0}, {(time_t)seconds, 0}};
        timer_settime(timer, 0, &when, nullptr);
    }
    ~Guard() {
        timer_delete(timer);
        for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};
static void explain_signal(int number, unsigned seconds) {
    char text[160];
    unsigned thread = cur ? cur->number : 0;
    cur = nullptr;
    if (number == SIGVTALRM)
        snprintf(text, sizeof text, "no end within %u s: block %u thread %u was running", seconds, block_number, thread);
    else
        snprintf(text, sizeof text, "crash in block %u thread %u: %s", block_number, thread,
                 number == SIGFPE ? "a division by zero" : "a wild address");
    error = text;
}

static void run_blocks(const Setup& s) {
    unsigned count = s.grid[0] * s.grid[1] * s.grid[2];
    std::vector<unsigned> blocks(count);
    for (unsigned i = 0; i < count; i++) blocks[i] = order == 1 ? count - 1 - i : i;
    if (order == 2)
        for (unsigned i = count; i > 1; i--) std::swap(blocks[i - 1], blocks[random_below(i)]);
    for (unsigned i : blocks) {
        block_number = i;
        bid = {i % gdim.x, i / gdim.x % gdim.y, i / (gdim.x * gdim.y)};
        run_block();
        if (!error.empty()) return;
    }
}
}  // namespace cu

extern "C" __attribute__((visibility("default")))
const char* cu_launch(const cu::Kernel* kernel, void** args, const cu::Setup* s) {
    using namespace cu;
    *(volatile char*)&anchor = 0;
    dl_iterate_phdr(find_image, nullptr);
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (!stacks)
        stacks = (char*)mmap(0, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
    gdim = {s->grid[0], s->grid[1], s->grid[2]};
    bdim = {s->block[0], s->block[1], s->block[2]};
    threads = bdim.x * bdim.y * bdim.z;
    dynamic_bytes = s->dynamic;
    order = s->order;
    preempt = s->preempt;
    random_state = s->seed * 0x9E3779B97F4A7C15ull + 0x1234567;
    kernel_now = kernel;
    args_now = args;
    error.clear();
    check_launch(*s);
    Guard guard(s->seconds);
    int number = sigsetjmp(crash_exit, 1);
    if (number) explain_signal(number, s->seconds);
    else run_blocks(*s);
    return error.empty() ? nullptr : error.c_str();
}
