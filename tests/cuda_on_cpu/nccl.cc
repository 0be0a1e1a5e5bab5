// A stand-in for libnccl.so.2 on top of the stand-in driver: ranks are processes of one machine that keep a socket for every pair.
// Work waits in the stream it was given, like a kernel's, and memory must lie in an allocation. Reductions of floats are added from the
// last rank to the first, so that whoever relies on an order notices.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

struct Stream;
extern "C" int stand_in_enqueue(Stream* s, std::function<void()>* work);
extern "C" bool stand_in_within(unsigned long long p, size_t n);
extern "C" void stand_in_meanwhile(std::function<void()>* wait);

typedef unsigned long long Pointer;
#define API extern "C" __attribute__((visibility("default"))) int
enum { OK = 0, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6 };

struct Id {
    char name[128];
};
struct Comm {
    int rank, size;
    std::vector<int> sockets;
    std::atomic<int> error{OK};
};
struct Message {
    bool send;
    char* at;
    size_t bytes;
    int peer;
    Comm* comm;
    Stream* stream;
};
static thread_local int depth = 0;
static thread_local std::vector<Message> group;

static bool all(bool send, int socket, char* at, size_t n) {
    while (n) {
        const ssize_t done = send ? ::send(socket, at, n, MSG_NOSIGNAL) : ::recv(socket, at, n, 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done, n -= done;
    }
    return true;
}

// Every message says how long it is, so that ranks that do not fit each other are found out.
static void pass(const Message& m) {
    uint64_t n = m.bytes;
    const int socket = m.comm->sockets[m.peer];
    bool good = all(m.send, socket, (char*)&n, sizeof n);
    if (good && n != m.bytes) {
        fprintf(stderr, "nccl stand-in: rank %d sends %zu bytes where %zu are expected\n", m.peer, size_t(n), m.bytes);
        good = false;
    }
    if (!good || !all(m.send, socket, m.at, m.bytes)) m.comm->error = REMOTE;
}
static void pass_all(const std::vector<Message>& messages) {
    std::function<void()> work = [&] {
        std::vector<std::thread> sending;
        for (auto& m : messages)
            if (m.send) sending.emplace_back([&m] { pass(m); });
        for (auto& m : messages)
            if (!m.send) pass(m);
        for (auto& s : sending) s.join();
    };
    stand_in_meanwhile(&work);
}
static int queue(Stream* s, std::function<void()> work) { return stand_in_enqueue(s, &work) ? SYSTEM : OK; }

static size_t width(int type) { return type <= 1 ? 1 : type == 6 || type == 9 ? 2 : type == 4 || type == 5 || type == 8 ? 8 : 4; }

template <class T>
static void reduce(std::vector<std::vector<char>>& parts, int op, char* out, size_t n) {
    T* y = (T*)out;
    for (size_t i = 0; i < n; i++) {
        T v = ((T*)parts.back().data())[i];
        for (size_t p = parts.size() - 1; p-- > 0;) {
            const T w = ((T*)parts[p].data())[i];
            v = op == 0 ? T(v + w) : op == 2 ? (w > v ? w : v) : (w < v ? w : v);
        }
        y[i] = v;
    }
}
static int reduce_any(std::vector<std::vector<char>>& parts, int type, int op, char* out, size_t n) {
    switch (type) {
        case 1: return reduce<uint8_t>(parts, op, out, n), OK;
        case 2: return reduce<int32_t>(parts, op, out, n), OK;
        case 3: return reduce<uint32_t>(parts, op, out, n), OK;
        case 7: return reduce<float>(parts, op, out, n), OK;
        default: return INVALID_ARGUMENT;
    }
}

// What every rank has of `bytes` bytes, in the order of the ranks.
static std::vector<std::vector<char>> everybodys(Comm* c, char* own, size_t bytes) {
    std::vector<std::vector<char>> parts(c->size, std::vector<char>(bytes));
    std::vector<Message> messages;
    memcpy(parts[c->rank].data(), own, bytes);
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank) continue;
        messages.push_back({true, parts[c->rank].data(), bytes, r, c, nullptr});
        messages.push_back({false, parts[r].data(), bytes, r, c, nullptr});
    }
    pass_all(messages);
    return parts;
}

API ncclGetVersion(int* v) { return *v = 22809, OK; }
extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(int code) {
    return code == OK ? "no error" : code == REMOTE ? "remote process exited or there was a network error" : "an error of the stand-in";
}
API ncclGetUniqueId(Id* id) {
    static std::atomic<int> made{0};
    memset(id, 0, sizeof *id);
    snprintf(id->name, sizeof id->name, "lm-saes-nccl-%d-%d", int(getpid()), made++);
    return OK;
}

static socklen_t place(const Id& id, int rank, sockaddr_un* a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    const int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "%s-%d", id.name, rank);
    return offsetof(sockaddr_un, sun_path) + 1 + n;
}
API ncclCommInitRank(Comm** out, int size, Id id, int rank) {
    if (size < 1 || rank < 0 || rank >= size || !id.name[0]) return INVALID_ARGUMENT;
    auto* c = new Comm{rank, size, std::vector<int>(size, -1)};
    sockaddr_un a;
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (sockaddr*)&a, place(id, rank, &a)) || listen(listener, size)) return SYSTEM;
    for (int r = 0; r < rank; r++) {
        c->sockets[r] = socket(AF_UNIX, SOCK_STREAM, 0);
        const socklen_t n = place(id, r, &a);
        for (int tries = 0; connect(c->sockets[r], (sockaddr*)&a, n); tries++) {
            if (tries > 30000) return REMOTE;
            usleep(1000);
        }
        if (!all(true, c->sockets[r], (char*)&rank, sizeof rank)) return REMOTE;
    }
    for (int n = rank + 1; n < size; n++) {
        const int s = accept(listener, nullptr, nullptr);
        int r = 0;
        if (s < 0 || !all(false, s, (char*)&r, sizeof r) || r <= rank || r >= size) return REMOTE;
        c->sockets[r] = s;
    }
    close(listener);
    return *out = c, OK;
}
API ncclCommDestroy(Comm* c) {
    for (int s : c->sockets)
        if (s >= 0) close(s);
    return delete c, OK;
}
API ncclCommAbort(Comm* c) { return ncclCommDestroy(c); }
API ncclCommGetAsyncError(Comm* c, int* e) { return *e = c->error, OK; }

API ncclGroupStart() { return depth++, OK; }
API ncclGroupEnd() {
    if (depth == 0) return INVALID_USAGE;
    if (--depth || group.empty()) return OK;
    std::vector<Message> messages;
    messages.swap(group);
    for (auto& m : messages)
        if (m.stream != messages[0].stream) return INVALID_USAGE;
    return queue(messages[0].stream, [=] { pass_all(messages); });
}
static int message(bool send, Pointer at, size_t n, int type, int peer, Comm* c, Stream* s) {
    const size_t bytes = n * width(type);
    if (peer < 0 || peer >= c->size || peer == c->rank || !stand_in_within(at, bytes)) return INVALID_ARGUMENT;
    if (!depth) return INVALID_USAGE;  // two ranks that send to each other would wait for ever
    return group.push_back({send, (char*)at, bytes, peer, c, s}), OK;
}
API ncclSend(Pointer at, size_t n, int type, int peer, Comm* c, Stream* s) { return message(true, at, n, type, peer, c, s); }
API ncclRecv(Pointer at, size_t n, int type, int peer, Comm* c, Stream* s) { return message(false, at, n, type, peer, c, s); }

API ncclAllReduce(Pointer from, Pointer to, size_t n, int type, int op, Comm* c, Stream* s) {
    const size_t bytes = n * width(type);
    if (!stand_in_within(from, bytes) || !stand_in_within(to, bytes)) return INVALID_ARGUMENT;
    return queue(s, [=] {
        auto parts = everybodys(c, (char*)from, bytes);
        if (reduce_any(parts, type, op, (char*)to, n)) c->error = INVALID_ARGUMENT;
    });
}
API ncclReduceScatter(Pointer from, Pointer to, size_t n, int type, int op, Comm* c, Stream* s) {
    const size_t bytes = n * width(type);
    if (!stand_in_within(from, bytes * c->size) || !stand_in_within(to, bytes)) return INVALID_ARGUMENT;
    return queue(s, [=] {
        auto parts = everybodys(c, (char*)from, bytes * c->size);
        for (auto& p : parts) p.erase(p.begin(), p.begin() + c->rank * bytes), p.resize(bytes);
        if (reduce_any(parts, type, op, (char*)to, n)) c->error = INVALID_ARGUMENT;
    });
}
API ncclAllGather(Pointer from, Pointer to, size_t n, int type, Comm* c, Stream* s) {
    const size_t bytes = n * width(type);
    if (!stand_in_within(from, bytes) || !stand_in_within(to, bytes * c->size)) return INVALID_ARGUMENT;
    return queue(s, [=] {
        auto parts = everybodys(c, (char*)from, bytes);
        for (int r = 0; r < c->size; r++) memcpy((char*)to + r * bytes, parts[r].data(), bytes);
    });
}
API ncclBroadcast(Pointer from, Pointer to, size_t n, int type, int root, Comm* c, Stream* s) {
    const size_t bytes = n * width(type);
    if (!stand_in_within(from, bytes) || !stand_in_within(to, bytes)) return INVALID_ARGUMENT;
    return queue(s, [=] {
        auto parts = everybodys(c, (char*)from, bytes);
        memcpy((char*)to, parts[root].data(), bytes);
    });
}
