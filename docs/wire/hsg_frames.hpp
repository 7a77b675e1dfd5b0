// Reads frames.hsg, the published frames of hsg, version 1 (docs/wire.md has the bytes).
//
// One header, C++17, nothing but the standard library: copy it where you need it.
//
//     std::ifstream file("hsg-out/frames.hsg", std::ios::binary);
//     hsg::FrameReader reader(file);
//     hsg::Frame frame;                                            // its memory is reused from frame to frame
//     while (reader.next(frame)) {
//         std::vector<std::uint16_t> labels = frame.label_map(0);  // row by row: 1 + track id, 0 = none
//         std::vector<std::uint8_t> classes = frame.class_map();   // train id, 255 = none
//     }
//
// What is wrong with a stream is thrown as hsg::FrameError, a std::runtime_error; its kind() says whether one frame is
// damaged (the next call of next() gives the one behind it), or the stream is at its end (next() is false from then
// on). Frames given before are whole. What the standard library throws itself (std::bad_alloc; std::ios_base::failure
// of a stream that was told to throw) passes through.
//
// Every length and index is checked before it is used. Memory grows with the bytes received, not with the numbers that
// they claim; a map that is expanded has width * height values. Who reads from strangers sets smaller Limits.
#ifndef HSG_FRAMES_HPP
#define HSG_FRAMES_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace hsg {

/// The version of the stream that is read.
inline constexpr std::uint16_t format_version = 1;
/// In maps of segments an unlabelled pixel, in `parents` a segment without parent.
inline constexpr std::uint16_t no_segment = 65535;
/// In class maps a pixel without class.
inline constexpr std::uint8_t no_class = 255;

/// What is accepted.
struct Limits {
    /// Longest frame.
    std::uint32_t frame_bytes = std::uint32_t{256} << 20;
    /// Largest width * height.
    std::uint64_t pixels = std::uint64_t{1} << 28;
};

/// Something is wrong with a stream of frames; what() says what was expected and what was found.
class FrameError : public std::runtime_error {
public:
    enum class Kind {
        /// The stream does not begin with HSGF.
        Magic,
        /// It is of another version.
        Version,
        /// A frame is longer than Limits::frame_bytes.
        TooLong,
        /// The bytes of one frame are no frame. The reader can go on.
        Damaged,
        /// The stream ends within its header or within a frame.
        Cut,
        /// The std::istream cannot be read.
        Unreadable,
    };

    FrameError(Kind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}

    Kind kind() const noexcept { return kind_; }

private:
    Kind kind_;
};

/// Equal pixels in a row.
struct Run {
    /// Pixels, at least 1.
    std::uint32_t length = 0;
    /// Index into the segments of level 0, or no_segment.
    std::uint16_t segment = no_segment;
};

/// One segment at one level.
struct Segment {
    /// Stays with the segment over time, below 65535.
    std::uint32_t track_id = 0;
    /// Class; none when the model names nothing.
    std::optional<std::uint8_t> train_id;
    /// Share of the votes that the class got, 0 to 1.
    float confidence = 0;
    /// 1 - cosine to the nearest prototype, 0 to 2.
    float unknown_score = 0;
    /// x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.
    std::array<std::uint32_t, 4> bounding_box{};
    /// Pixels.
    std::uint32_t area = 0;
    /// x, y: mean of the pixel indices.
    std::array<float, 2> mean_position{};
};

/// The segments of one level.
struct Level {
    /// Per segment the index of its parent among the segments of the next level, or no_segment; empty at the last.
    std::vector<std::uint16_t> parents;
    std::vector<Segment> segments;
};

/// Nanoseconds that each stage spent on a frame; 0 = did not run.
struct StageNanos {
    std::uint64_t capture = 0;
    std::uint64_t preprocess = 0;
    std::uint64_t embed = 0;
    std::uint64_t segment = 0;
    std::uint64_t group = 0;
    std::uint64_t label = 0;
    std::uint64_t associate = 0;
    std::uint64_t refine = 0;
    std::uint64_t publish = 0;
};

/// One published frame. The maps take a frame as FrameReader and decode give it; indices that were changed afterwards
/// are the caller's to keep within their tables.
struct Frame {
    /// Name of the stream (the source), UTF-8.
    std::string stream;
    /// Counts published frames of this stream from 0.
    std::uint64_t sequence = 0;
    /// Capture time on the publisher's monotonic clock; of a file its presentation time.
    std::uint64_t capture_monotonic_nanos = 0;
    /// Nanoseconds since 1970-01-01 UTC; 0 = unknown.
    std::uint64_t capture_utc_nanos = 0;
    std::uint32_t width = 0;
    std::uint32_t height = 0;
    /// The level-0 map row by row; run lengths sum to width * height, and a run may go on in the next row.
    std::vector<Run> map;
    /// Finest first.
    std::vector<Level> levels;
    /// SHA-256 of the lines "train_id name\n" in ascending order of train id; zeros when the model names nothing.
    std::array<std::uint8_t, 32> class_table_hash{};
    StageNanos stage_nanos;
    /// How far the publisher has degraded its work to keep its deadline; 0 = not at all.
    std::uint8_t degradation_step = 0;
    /// Frames of this stream dropped so far.
    std::uint64_t drops = 0;

    /// Per segment of level 0 the index of the segment of `level` that it lies in, or no_segment.
    /// Throws std::out_of_range for a level that is not there.
    std::vector<std::uint16_t> segments_at(std::size_t level) const {
        if (level >= std::max<std::size_t>(1, levels.size())) {
            throw std::out_of_range("level: expected below " + std::to_string(levels.size()) + ", got " +
                                    std::to_string(level));
        }
        std::vector<std::uint16_t> found(levels.empty() ? 0 : levels[0].segments.size());
        for (std::size_t index = 0; index < found.size(); ++index) {
            found[index] = static_cast<std::uint16_t>(index);
        }
        for (std::size_t below = 0; below < level; ++below) {
            for (std::uint16_t& index : found) {
                index = index == no_segment ? no_segment : levels[below].parents.at(index);
            }
        }
        return found;
    }

    /// Per pixel, row by row, the index into levels[level].segments, or no_segment.
    std::vector<std::uint16_t> segment_map(std::size_t level = 0) const {
        return expand<std::uint16_t>(level, no_segment, [](std::uint16_t index) { return index; });
    }

    /// Per pixel, row by row, 1 + track id at `level`, 0 = none, as in labels/levelL/*.png.
    std::vector<std::uint16_t> label_map(std::size_t level = 0) const {
        return expand<std::uint16_t>(level, 0, [&](std::uint16_t index) {
            const std::uint32_t track_id = levels[level].segments.at(index).track_id;
            if (track_id >= no_segment) {
                throw FrameError(FrameError::Kind::Damaged,
                                 "track_id: expected below 65535, got " + std::to_string(track_id));
            }
            return static_cast<std::uint16_t>(1 + track_id);
        });
    }

    /// Per pixel, row by row, the train id at `level`, no_class = none; of level 0 as in classes/*.png.
    std::vector<std::uint8_t> class_map(std::size_t level = 0) const {
        return expand<std::uint8_t>(level, no_class, [&](std::uint16_t index) {
            return levels[level].segments.at(index).train_id.value_or(no_class);
        });
    }

private:
    template <typename Value, typename ValueOf>
    std::vector<Value> expand(std::size_t level, Value none, ValueOf value_of) const {
        std::vector<Value> values;
        for (std::uint16_t index : segments_at(level)) {
            values.push_back(index == no_segment ? none : value_of(index));
        }
        std::vector<Value> pixels;
        pixels.reserve(static_cast<std::size_t>(std::uint64_t{width} * height));
        for (const Run& run : map) {
            pixels.insert(pixels.end(), run.length, run.segment == no_segment ? none : values.at(run.segment));
        }
        return pixels;
    }
};

namespace detail {

[[noreturn]] inline void damaged(const std::string& what, std::uint64_t expected, std::uint64_t got) {
    throw FrameError(FrameError::Kind::Damaged,
                     what + ": expected " + std::to_string(expected) + ", got " + std::to_string(got));
}

/// Takes numbers from the bytes of one frame, never behind their end.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t count) : data_(data), left_(count) {}

    std::size_t left() const { return left_; }

    const std::uint8_t* take(std::size_t count, const char* what) {
        if (count > left_) {
            damaged(std::string(what) + " (bytes)", count, left_);
        }
        const std::uint8_t* taken = data_;
        // Not for zero bytes: of an empty frame data_ may be null.
        if (count > 0) {
            data_ += count;
            left_ -= count;
        }
        return taken;
    }

    std::uint8_t byte(const char* what) { return *take(1, what); }

    template <typename Number>
    Number varint(const char* what) {
        constexpr unsigned bits = std::numeric_limits<Number>::digits;
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < bits; shift += 7) {
            const std::uint8_t next = byte(what);
            const std::uint64_t low = next & 0x7fU;
            // The last byte that can be there has fewer than seven bits of the number.
            if (bits - shift < 7 && (low >> (bits - shift)) != 0) {
                break;
            }
            value |= low << shift;
            if (next < 0x80) {
                return static_cast<Number>(value);
            }
        }
        throw FrameError(FrameError::Kind::Damaged,
                         std::string(what) + ": expected a number of at most " + std::to_string(bits) +
                             " bits, got a longer one");
    }

    /// The number of elements of a list, each of which has at least `least_bytes`: a count for which too few bytes are
    /// left is refused before memory is reserved.
    std::size_t count(std::size_t least_bytes, const char* what) {
        const auto got = varint<std::uint64_t>(what);
        if (got > left_ / least_bytes) {
            damaged(std::string(what) + " (elements at most)", left_ / least_bytes, got);
        }
        return static_cast<std::size_t>(got);
    }

    float real(const char* what) {
        static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559, "floats are IEEE 754, 32 bits");
        const std::uint8_t* bytes = take(4, what);
        const std::uint32_t bits = std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 |
                                   std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
        float value = 0;
        std::memcpy(&value, &bits, 4);
        return value;
    }

private:
    const std::uint8_t* data_;
    std::size_t left_;
};

/// Whether the bytes are UTF-8: shortest form, no surrogates, nothing above U+10FFFF.
inline bool is_utf8(const std::uint8_t* bytes, std::size_t count) {
    for (std::size_t at = 0; at < count;) {
        const std::uint8_t first = bytes[at];
        std::size_t more = 0;
        std::uint32_t code = first;
        std::uint32_t least = 0;
        if (first >= 0xf0 && first < 0xf8) {
            more = 3, code = first & 0x07U, least = 0x10000;
        } else if (first >= 0xe0 && first < 0xf0) {
            more = 2, code = first & 0x0fU, least = 0x800;
        } else if (first >= 0xc0 && first < 0xe0) {
            more = 1, code = first & 0x1fU, least = 0x80;
        } else if (first >= 0x80) {
            return false;
        }
        if (more >= count - at) {
            return false;
        }
        for (std::size_t i = 1; i <= more; ++i) {
            const std::uint8_t next = bytes[at + i];
            if ((next & 0xc0U) != 0x80U) {
                return false;
            }
            code = code << 6 | (next & 0x3fU);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
            return false;
        }
        at += more + 1;
    }
    return true;
}

inline void read_segment(Bytes& bytes, Segment& segment) {
    segment.track_id = bytes.varint<std::uint32_t>("track_id");
    const std::uint8_t option = bytes.byte("train_id");
    if (option > 1) {
        damaged("train_id (0 = none, 1 = a class) at most", 1, option);
    }
    segment.train_id.reset();
    if (option == 1) {
        segment.train_id = bytes.byte("train_id");
    }
    segment.confidence = bytes.real("confidence");
    segment.unknown_score = bytes.real("unknown_score");
    for (std::uint32_t& side : segment.bounding_box) {
        side = bytes.varint<std::uint32_t>("bounding_box");
    }
    segment.area = bytes.varint<std::uint32_t>("area");
    for (float& mean : segment.mean_position) {
        mean = bytes.real("mean_position");
    }
}

inline void check_index(std::uint16_t index, std::size_t count, const char* what) {
    if (index != no_segment && index >= count) {
        damaged(what, count, index);
    }
}

/// What the encoding itself does not say: run lengths against the size, every index against its table.
inline void check(const Frame& frame, const Limits& limits) {
    const std::uint64_t pixels = std::uint64_t{frame.width} * frame.height;
    if (pixels > limits.pixels) {
        damaged("width * height at most", limits.pixels, pixels);
    }
    std::uint64_t covered = 0;
    const std::size_t finest = frame.levels.empty() ? 0 : frame.levels[0].segments.size();
    for (const Run& run : frame.map) {
        covered += run.length;
        if (run.length == 0) {
            damaged("map (shortest run, pixels)", 1, 0);
        }
        check_index(run.segment, finest, "map (segment index below)");
    }
    if (covered != pixels) {
        damaged("map (sum of run lengths, pixels)", pixels, covered);
    }
    for (std::size_t number = 0; number < frame.levels.size(); ++number) {
        const Level& level = frame.levels[number];
        const bool is_last = number + 1 == frame.levels.size();
        if (level.segments.size() > no_segment) {
            damaged("levels (segments of a level at most)", no_segment, level.segments.size());
        }
        const std::size_t expected = is_last ? 0 : level.segments.size();
        if (level.parents.size() != expected) {
            damaged("levels (parents of a level)", expected, level.parents.size());
        }
        const std::size_t above = is_last ? 0 : frame.levels[number + 1].segments.size();
        for (std::uint16_t parent : level.parents) {
            check_index(parent, above, "levels (parent index below)");
        }
    }
}

}  // namespace detail

/// Reads one frame from exactly its bytes, without the length before it, into `frame`, whose memory is reused.
/// Throws FrameError (Damaged); `frame` then holds something of both.
inline void decode(const std::uint8_t* body, std::size_t count, Frame& frame, const Limits& limits = {}) {
    detail::Bytes bytes(body, count);
    const std::size_t name_length = bytes.count(1, "stream");
    const std::uint8_t* name = bytes.take(name_length, "stream");
    if (!detail::is_utf8(name, name_length)) {
        throw FrameError(FrameError::Kind::Damaged, "stream: expected UTF-8, got other bytes");
    }
    frame.stream.assign(name, name + name_length);
    frame.sequence = bytes.varint<std::uint64_t>("sequence");
    frame.capture_monotonic_nanos = bytes.varint<std::uint64_t>("capture_monotonic_nanos");
    frame.capture_utc_nanos = bytes.varint<std::uint64_t>("capture_utc_nanos");
    frame.width = bytes.varint<std::uint32_t>("width");
    frame.height = bytes.varint<std::uint32_t>("height");
    frame.map.resize(bytes.count(2, "map"));
    for (Run& run : frame.map) {
        run.length = bytes.varint<std::uint32_t>("length of a run");
        run.segment = bytes.varint<std::uint16_t>("segment of a run");
    }
    frame.levels.resize(bytes.count(2, "levels"));
    for (Level& level : frame.levels) {
        level.parents.resize(bytes.count(1, "parents"));
        for (std::uint16_t& parent : level.parents) {
            parent = bytes.varint<std::uint16_t>("parents");
        }
        // The least that a segment can have: 7 numbers of one byte and 4 floats.
        level.segments.resize(bytes.count(23, "segments"));
        for (Segment& segment : level.segments) {
            detail::read_segment(bytes, segment);
        }
    }
    const std::uint8_t* hash = bytes.take(frame.class_table_hash.size(), "class_table_hash");
    std::copy(hash, hash + frame.class_table_hash.size(), frame.class_table_hash.begin());
    StageNanos& spent = frame.stage_nanos;
    for (std::uint64_t* nanos : {&spent.capture, &spent.preprocess, &spent.embed, &spent.segment, &spent.group,
                                 &spent.label, &spent.associate, &spent.refine, &spent.publish}) {
        *nanos = bytes.varint<std::uint64_t>("stage_nanos");
    }
    frame.degradation_step = bytes.byte("degradation_step");
    frame.drops = bytes.varint<std::uint64_t>("drops");
    if (bytes.left() != 0) {
        detail::damaged("bytes behind the frame", 0, bytes.left());
    }
    detail::check(frame, limits);
}

/// Gives the frames of a stream or of bytes in memory, one after the other. Neither is owned: it has to outlive the
/// reader. Not for several threads at once.
class FrameReader {
public:
    /// Reads from where `stream` stands; a file is opened with std::ios::binary.
    explicit FrameReader(std::istream& stream, Limits limits = {}) : stream_(&stream), limits_(limits) {}

    /// Reads a whole stream, header included, that is in memory.
    FrameReader(const void* bytes, std::size_t count, Limits limits = {})
        : memory_(static_cast<const std::uint8_t*>(bytes)), memory_left_(count), limits_(limits) {}

    /// Frames passed so far, damaged ones included.
    std::uint64_t index() const noexcept { return index_; }

    /// Reads the next frame into `frame`; false at the end of the stream. Throws FrameError.
    bool next(Frame& frame) {
        if (ended_) {
            return false;
        }
        // Ended unless a frame, or the place behind a damaged one, is reached.
        ended_ = true;
        if (!begun_) {
            read_header();
            begun_ = true;
        }
        const std::size_t head = read(4);
        if (head == 0) {
            return false;
        }
        std::size_t body = 0;
        std::uint32_t length = 0;
        if (head == 4) {
            length = std::uint32_t{bytes_[0]} | std::uint32_t{bytes_[1]} << 8 | std::uint32_t{bytes_[2]} << 16 |
                     std::uint32_t{bytes_[3]} << 24;
            if (length > limits_.frame_bytes) {
                fail(FrameError::Kind::TooLong, "expected at most " + std::to_string(limits_.frame_bytes) +
                                                    " bytes, got " + std::to_string(length) + "; damaged?");
            }
            body = read(length);
        }
        if (head < 4 || body < length) {
            fail(FrameError::Kind::Cut, "the stream is cut: expected a whole frame at its end, got " +
                                            std::to_string(head + body) +
                                            " bytes of one; the frames before it are whole");
        }
        ended_ = false;
        ++index_;
        try {
            decode(bytes_.data(), body, frame, limits_);
        } catch (const FrameError& error) {
            throw FrameError(error.kind(), "frame " + std::to_string(index_ - 1) + ": " + error.what());
        }
        return true;
    }

private:
    [[noreturn]] void fail(FrameError::Kind kind, const std::string& text) const {
        throw FrameError(kind, "frame " + std::to_string(index_) + ": " + text);
    }

    void read_header() {
        const std::size_t got = read(6);
        if (got < 6) {
            throw FrameError(FrameError::Kind::Cut,
                             "the stream is cut: expected a header of 6 bytes, got " + std::to_string(got));
        }
        if (std::memcmp(bytes_.data(), "HSGF", 4) != 0) {
            throw FrameError(FrameError::Kind::Magic,
                             "expected a stream of frames, which begins with HSGF, got other bytes");
        }
        const unsigned version = unsigned{bytes_[4]} | unsigned{bytes_[5]} << 8;
        if (version != format_version) {
            throw FrameError(FrameError::Kind::Version,
                             "expected version " + std::to_string(format_version) + ", got " + std::to_string(version) +
                                 "; take the hsg_frames.hpp that belongs to the hsg that wrote it");
        }
    }

    /// Fills bytes_ with the next `count` bytes, fewer at the end of the stream, and says how many.
    std::size_t read(std::size_t count) {
        bytes_.clear();
        if (stream_ == nullptr) {
            const std::size_t taken = std::min(count, memory_left_);
            if (taken > 0) {
                bytes_.assign(memory_, memory_ + taken);
                memory_ += taken;
                memory_left_ -= taken;
            }
            return taken;
        }
        // In pieces: a damaged length must not reserve memory for what never comes.
        constexpr std::size_t piece = std::size_t{64} << 10;
        while (bytes_.size() < count && stream_->good()) {
            const std::size_t before = bytes_.size();
            const std::size_t wanted = std::min(piece, count - before);
            bytes_.resize(before + wanted);
            stream_->read(reinterpret_cast<char*>(bytes_.data() + before), static_cast<std::streamsize>(wanted));
            bytes_.resize(before + static_cast<std::size_t>(stream_->gcount()));
        }
        // A file that could not be opened has failed without an end.
        if (stream_->bad() || (stream_->fail() && !stream_->eof())) {
            fail(FrameError::Kind::Unreadable, "the stream cannot be read; does the file exist?");
        }
        return bytes_.size();
    }

    std::istream* stream_ = nullptr;
    const std::uint8_t* memory_ = nullptr;
    std::size_t memory_left_ = 0;
    Limits limits_;
    std::vector<std::uint8_t> bytes_;
    std::uint64_t index_ = 0;
    bool begun_ = false;
    bool ended_ = false;
};

}  // namespace hsg

#endif
