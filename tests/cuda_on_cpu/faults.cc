// Runs one kernel of faults.cu: `faults NAME`. Exits 0 when it ran and gave the right result under every order of threads
// tried, 1 when the run or the result shows a fault, and as the address sanitizer says when that finds one.
#include "cuda_on_cpu.h"

int main(int argc, char** argv) {
    const std::string name = argc > 1 ? argv[1] : "";
    auto found = cuda_on_cpu::registry().find(name);
    if (found == cuda_on_cpu::registry().end()) return fprintf(stderr, "no kernel %s\n", name.c_str()), 2;
    const bool short_input = name == "fault_out_of_bounds", short_shared = name == "fault_shared_overrun";
    const bool reverses = name == "sound_reverse" || name == "fault_missing_barrier";
    for (uint64_t seed = 0; seed < 4; seed++) {
        cuda_on_cpu::seed() = seed;
        std::vector<float> x(short_input ? 255 : 256), y(256);
        for (size_t i = 0; i < x.size(); i++) x[i] = float(i + 1 + 1000 * seed);
        const float* from = x.data();
        float* to = y.data();
        void* params[] = {&from, &to};
        if (!cuda_on_cpu::launch(found->second, 1, 256, short_shared ? 255 * 4 : 1024, params)) return 1;
        for (int i = 0; reverses && i < 256; i++)
            if (y[i] != x[255 - i]) return fprintf(stderr, "wrong result at %d with seed %d\n", i, int(seed)), 1;
    }
    return 0;
}
