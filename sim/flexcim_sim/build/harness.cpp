// Drives a Verilated design through its streams, many cycles a call (sim/flexcim_sim/runtime/simulation.py is the other side).
//
// A stream is a pair valid/ready with the ports that it carries. What goes into the design waits in a queue of beats,
// and what comes out is kept in one; a beat is made of 32-bit words, each port of the stream in words of its own, the
// lowest first. A beat that was offered stays until it is taken.
//
// design.inc, written with the Verilog, makes the model and names its ports:
//   PREFIX            the model's class
//   CLOCK, RESET      names of two ports
//   STREAMS(port)     a list of streams: into the design or out of it, valid, ready, what it carries
//   WATCHED(port)     a list of Port, the outputs that are no part of a stream

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "verilated.h"

#include "design.inc"

namespace {

struct Port {
    uint8_t* data;
    size_t bytes;

    size_t words() const { return (bytes + 3) / 4; }
};

struct Stream {
    bool into_design;
    Port valid, ready;
    std::vector<Port> ports;
    size_t beat_words = 0;

    // The queue: of all beats so far, the first `done` have been taken by the design or by the caller.
    std::vector<uint32_t> words;
    size_t beats = 0, done = 0;
    bool offered = false;
    uint64_t first_cycle = 0, last_cycle = 0, moved = 0;  // cycles in which beats passed the port, and how many did
    uint32_t pause = 0;                                   // chance of a pause in a cycle, of 2^32

    Stream(bool into_design, Port valid, Port ready, std::vector<Port> ports)
        : into_design(into_design), valid(valid), ready(ready), ports(std::move(ports)) {
        for (const Port& port : this->ports) beat_words += port.words();
    }

    void to_ports(const uint32_t* beat) const {
        for (const Port& port : ports) {
            std::memcpy(port.data, beat, port.bytes);
            beat += port.words();
        }
    }

    void from_ports() {
        const size_t start = words.size();
        words.resize(start + beat_words);
        uint32_t* beat = words.data() + start;
        for (const Port& port : ports) {
            std::memcpy(beat, port.data, port.bytes);
            beat += port.words();
        }
        ++beats;
    }

    void count(uint64_t cycle) {
        if (!moved++) first_cycle = cycle;
        last_cycle = cycle;
    }
};

template <class T>
Port port(T& signal) {
    return {reinterpret_cast<uint8_t*>(&signal), sizeof(T)};
}

struct Simulation {
    VerilatedContext context;
    PREFIX top{&context};
    std::vector<Stream> streams{STREAMS(port)};
    std::vector<Port> watched{WATCHED(port)};
    uint64_t cycle = 0;
    uint64_t random = 0x9e3779b97f4a7c15;

    bool pauses(const Stream& stream) {
        if (!stream.pause) return false;
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;  // xorshift64
        return uint32_t(random >> 32) < stream.pause;
    }

    void edge() {
        top.CLOCK = 1;
        top.eval();
        top.CLOCK = 0;  // evaluated together with the next cycle's inputs
    }

    void reset() {
        top.CLOCK = 0;
        top.RESET = 1;
        for (Stream& stream : streams) {
            *(stream.into_design ? stream.valid : stream.ready).data = 0;
            stream.words.clear();
            stream.beats = stream.done = 0;
            stream.moved = stream.first_cycle = stream.last_cycle = 0;
            stream.offered = false;
        }
        top.eval();
        edge();
        top.RESET = 0;
        cycle = 0;
    }

    void step() {
        for (Stream& stream : streams) {
            if (!stream.into_design) {
                *stream.ready.data = !pauses(stream);
            } else if (!stream.offered) {
                stream.offered = stream.done < stream.beats && !pauses(stream);
                *stream.valid.data = stream.offered;
                if (stream.offered) stream.to_ports(stream.words.data() + stream.done * stream.beat_words);
            }
        }
        top.eval();
        for (Stream& stream : streams) {
            if (!*stream.valid.data || !*stream.ready.data) continue;
            stream.count(cycle);
            if (stream.into_design) {
                ++stream.done;
                stream.offered = false;
            } else {
                stream.from_ports();
            }
        }
        edge();
        ++cycle;
    }

    bool watched_any() const {
        for (const Port& port : watched)
            for (size_t byte = 0; byte < port.bytes; ++byte)
                if (port.data[byte]) return true;
        return false;
    }
};

}  // namespace

extern "C" {

Simulation* flexcim_open() {
    auto simulation = std::make_unique<Simulation>();
    simulation->reset();
    return simulation.release();
}

void flexcim_close(Simulation* simulation) {
    simulation->top.final();
    delete simulation;
}

void flexcim_reset(Simulation* simulation) { simulation->reset(); }

void flexcim_pause(Simulation* simulation, size_t stream, uint32_t chance) { simulation->streams[stream].pause = chance; }

void flexcim_seed(Simulation* simulation, uint64_t seed) {
    simulation->random = seed * 0x9e3779b97f4a7c15 | 1;  // xorshift must not start at 0
}

// Put beats into an input's queue.
void flexcim_push(Simulation* simulation, size_t index, const uint32_t* words, size_t beats) {
    Stream& stream = simulation->streams[index];
    // What has been taken is let go, once it is the larger part.
    if (stream.done > stream.beats / 2) {
        stream.words.erase(stream.words.begin(), stream.words.begin() + stream.done * stream.beat_words);
        stream.beats -= stream.done;
        stream.done = 0;
    }
    stream.words.insert(stream.words.end(), words, words + beats * stream.beat_words);
    stream.beats += beats;
}

// Beats that wait in a queue: to enter the design, or to be pulled.
size_t flexcim_waiting(Simulation* simulation, size_t stream) {
    return simulation->streams[stream].beats - simulation->streams[stream].done;
}

// Take all beats from an output's queue.
void flexcim_pull(Simulation* simulation, size_t index, uint32_t* words) {
    Stream& stream = simulation->streams[index];
    if (!stream.words.empty()) std::memcpy(words, stream.words.data(), stream.words.size() * sizeof(uint32_t));
    stream.words.clear();
    stream.beats = stream.done = 0;
}

// Cycles of the first and the last beat that passed a stream's port, and how many did since the reset.
void flexcim_moved(Simulation* simulation, size_t stream, uint64_t* moved) {
    const Stream& of = simulation->streams[stream];
    moved[0] = of.moved, moved[1] = of.first_cycle, moved[2] = of.last_cycle;
}

uint64_t flexcim_cycle(Simulation* simulation) { return simulation->cycle; }

// Go on for at most so many cycles, but only until a stream's queue holds so many beats or a watched output is not 0.
// Returns the cycles that passed.
uint64_t flexcim_run(Simulation* simulation, uint64_t cycles, size_t until_stream, size_t until_beats) {
    const Stream& awaited = simulation->streams[until_stream];
    uint64_t passed = 0;
    while (passed < cycles && awaited.beats - awaited.done < until_beats) {
        simulation->step();
        ++passed;
        if (simulation->watched_any()) break;
    }
    return passed;
}

uint64_t flexcim_watched(Simulation* simulation, size_t output) {
    uint64_t value = 0;
    const Port& port = simulation->watched[output];
    std::memcpy(&value, port.data, port.bytes < 8 ? port.bytes : 8);
    return value;
}
}
