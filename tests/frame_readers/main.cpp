// What tests/suites/frame_readers.rs asks of docs/wire/hsg_frames.hpp:
//   json FILE    one JSON object per frame, as `hsg_frames.py --json` prints it
//   maps FILE    per frame and level the segment map and the label map, per frame the class map, as bytes
//   cases FILE   per stream of the file (each behind its length, u32) a line of what came of it
#include "hsg_frames.hpp"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace {

std::string number(float value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", static_cast<double>(value));
    return text;
}

// Names in these tests need no escapes but these.
std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (char letter : text) {
        if (letter == '"' || letter == '\\') {
            out += '\\';
        }
        out += letter;
    }
    return out + "\"";
}

template <typename List, typename Print>
void list(const List& values, Print print) {
    std::cout << '[';
    const char* between = "";
    for (const auto& value : values) {
        std::cout << between;
        print(value);
        between = ",";
    }
    std::cout << ']';
}

void print_json(const hsg::Frame& frame) {
    const auto whole = [](auto value) { std::cout << +value; };
    const auto real = [](float value) { std::cout << number(value); };
    std::cout << "{\"stream\":" << quoted(frame.stream) << ",\"sequence\":" << frame.sequence
              << ",\"capture_monotonic_nanos\":" << frame.capture_monotonic_nanos
              << ",\"capture_utc_nanos\":" << frame.capture_utc_nanos << ",\"width\":" << frame.width
              << ",\"height\":" << frame.height << ",\"map\":";
    list(frame.map, [](const hsg::Run& run) { std::cout << '[' << run.length << ',' << run.segment << ']'; });
    std::cout << ",\"levels\":";
    list(frame.levels, [&](const hsg::Level& level) {
        std::cout << "{\"parents\":";
        list(level.parents, whole);
        std::cout << ",\"segments\":";
        list(level.segments, [&](const hsg::Segment& segment) {
            std::cout << "{\"track_id\":" << segment.track_id << ",\"train_id\":"
                      << (segment.train_id ? std::to_string(+*segment.train_id) : "null")
                      << ",\"confidence\":" << number(segment.confidence)
                      << ",\"unknown_score\":" << number(segment.unknown_score) << ",\"bounding_box\":";
            list(segment.bounding_box, whole);
            std::cout << ",\"area\":" << segment.area << ",\"mean_position\":";
            list(segment.mean_position, real);
            std::cout << '}';
        });
        std::cout << '}';
    });
    std::cout << ",\"class_table_hash\":\"";
    for (std::uint8_t byte : frame.class_table_hash) {
        char text[3];
        std::snprintf(text, sizeof text, "%02x", static_cast<unsigned>(byte));
        std::cout << text;
    }
    const hsg::StageNanos& spent = frame.stage_nanos;
    std::cout << "\",\"stage_nanos\":{\"capture\":" << spent.capture << ",\"preprocess\":" << spent.preprocess
              << ",\"embed\":" << spent.embed << ",\"segment\":" << spent.segment << ",\"group\":" << spent.group
              << ",\"label\":" << spent.label << ",\"associate\":" << spent.associate
              << ",\"refine\":" << spent.refine << ",\"publish\":" << spent.publish
              << "},\"degradation_step\":" << +frame.degradation_step << ",\"drops\":" << frame.drops << "}\n";
}

template <typename Value>
void print_raw(const std::vector<Value>& values) {
    std::cout.write(reinterpret_cast<const char*>(values.data()),
                    static_cast<std::streamsize>(values.size() * sizeof(Value)));
}

void print_maps(const hsg::Frame& frame) {
    for (std::size_t level = 0; level < frame.levels.size(); ++level) {
        print_raw(frame.segment_map(level));
        print_raw(frame.label_map(level));
    }
    print_raw(frame.class_map());
}

// A hash of the lowest-level map and of the topmost: equal maps, equal numbers.
std::uint32_t digest(const hsg::Frame& frame) {
    std::uint32_t sum = 1;
    if (std::uint64_t{frame.width} * frame.height <= 100000) {
        for (std::size_t level : {std::size_t{0}, frame.levels.empty() ? 0 : frame.levels.size() - 1}) {
            for (std::uint16_t value : frame.segment_map(level)) {
                sum = sum * 31 + value;
            }
        }
        for (std::uint8_t value : frame.class_map()) {
            sum = sum * 31 + value;
        }
    }
    return sum;
}

const char* kind_name(hsg::FrameError::Kind kind) {
    switch (kind) {
        case hsg::FrameError::Kind::Cut: return " cut";
        case hsg::FrameError::Kind::Damaged: return " damaged";
        default: return " refused";
    }
}

void print_case(hsg::FrameReader reader) {
    hsg::Frame frame;
    for (bool more = true; more;) {
        try {
            more = reader.next(frame);
            if (more) {
                std::cout << ' ' << frame.sequence << '/' << frame.drops << '/' << digest(frame);
            }
        } catch (const hsg::FrameError& error) {
            std::cout << kind_name(error.kind());
        }
    }
}

}  // namespace

int main(int count, char** arguments) try {
    const std::string what = count == 3 ? arguments[1] : "";
    std::ios::sync_with_stdio(false);
    std::ifstream file(count == 3 ? arguments[2] : "", std::ios::binary);
    if (what == "cases") {
        const std::string all{std::istreambuf_iterator<char>(file), {}};
        for (std::size_t at = 0; at + 4 <= all.size();) {
            std::size_t length = 0;
            for (std::size_t i = 0; i < 4; ++i) {
                length |= std::size_t{static_cast<unsigned char>(all[at + i])} << (8 * i);
            }
            at += 4;
            // A buffer of exactly this many bytes, so that one byte too far is found.
            const std::vector<char> bytes(all.data() + at, all.data() + at + length);
            at += length;
            print_case(hsg::FrameReader(bytes.data(), bytes.size()));
            // The other way in has to find the same.
            std::cout << " |";
            std::istringstream stream(std::string(bytes.begin(), bytes.end()));
            print_case(hsg::FrameReader(stream));
            std::cout << '\n';
        }
        return 0;
    }
    hsg::FrameReader reader(file);
    hsg::Frame frame;
    while (reader.next(frame)) {
        what == "json" ? print_json(frame) : print_maps(frame);
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
