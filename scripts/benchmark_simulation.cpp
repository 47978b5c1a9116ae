// What scripts/benchmark_simulation.py measures the in-process harness against: the plainest bench for an accelerator,
// a Verilated model and a clock loop that carries one job out, from files in the folder that is its argument.
//
// The types are those of an accelerator whose results are 512 bits wide, and its other two streams at least 128.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

enum { CONTROL = 0x0c, INTERRUPT = 0x1c, PROGRAM_ENTRY = 0x20, PROGRAM_ADDRESS = 0x24, PROGRAM_DATA = 0x28 };

static Vtop top;
static uint64_t cycles = 0;

static void clock_edge() {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    ++cycles;
}

static void write_register(uint32_t address, uint32_t value) {
    top.s_axil_awaddr = address, top.s_axil_wdata = value, top.s_axil_wstrb = 15;
    top.s_axil_awvalid = top.s_axil_wvalid = 1;
    top.s_axil_bready = 1;
    for (bool answered = false; !answered;) {
        top.eval();
        const bool address_taken = top.s_axil_awready, data_taken = top.s_axil_wready;
        answered = top.s_axil_bvalid;
        clock_edge();
        if (address_taken) top.s_axil_awvalid = 0;
        if (data_taken) top.s_axil_wvalid = 0;
    }
}

static std::vector<uint8_t> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int main(int, char** argv) {
    const std::string folder = argv[1];
    const std::vector<uint8_t> program = read_file(folder + "/program.bin"), weights = read_file(folder + "/weights.bin"),
                               activations = read_file(folder + "/activations.bin"),
                               expected = read_file(folder + "/expected.bin");
    std::vector<uint8_t> results;

    top.rst = 1;
    top.eval();
    clock_edge();
    top.rst = 0;
    cycles = 0;
    const clock_t begun = clock();

    write_register(INTERRUPT, 3);
    write_register(PROGRAM_ADDRESS, 0);
    for (size_t at = 0; at < program.size(); at += 4) {
        uint32_t word;
        std::memcpy(&word, &program[at], 4);
        write_register(PROGRAM_DATA, word);
    }
    write_register(PROGRAM_ENTRY, 0);
    write_register(CONTROL, 1);

    size_t weight = 0, activation = 0;
    top.m_axis_results_tready = 1;
    while (!top.irq) {
        top.s_axis_weights_tvalid = weight < weights.size();
        if (top.s_axis_weights_tvalid) std::memcpy(&top.s_axis_weights_tdata, &weights[weight], sizeof top.s_axis_weights_tdata);
        top.s_axis_activations_tvalid = activation < activations.size();
        if (top.s_axis_activations_tvalid)
            std::memcpy(&top.s_axis_activations_tdata, &activations[activation], sizeof top.s_axis_activations_tdata);
        top.eval();
        if (top.s_axis_weights_tvalid && top.s_axis_weights_tready) weight += sizeof top.s_axis_weights_tdata;
        if (top.s_axis_activations_tvalid && top.s_axis_activations_tready)
            activation += sizeof top.s_axis_activations_tdata;
        if (top.m_axis_results_tvalid) {
            const auto* data = reinterpret_cast<const uint8_t*>(&top.m_axis_results_tdata);
            results.insert(results.end(), data, data + __builtin_popcountll(top.m_axis_results_tkeep));
        }
        clock_edge();
    }

    const double seconds = double(clock() - begun) / CLOCKS_PER_SEC;
    if (results != expected) {
        std::fprintf(stderr, "the results are not those that are expected\n");
        return 1;
    }
    std::ofstream(folder + "/results.bin", std::ios::binary).write(reinterpret_cast<char*>(results.data()), results.size());
    std::printf("{\"cycles\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(cycles), seconds);
    return 0;
}
