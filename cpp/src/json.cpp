#include "json.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "segnets/error.h"

namespace segnets {

class JsonReader {
 public:
  JsonReader(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Json document() {
    Json result = value(what_, 0);
    skip_space();
    if (position_ != text_.size()) fail("text after the end");
    return result;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(what_ + ": not JSON: " + reason + " at byte " + std::to_string(position_));
  }

  void skip_space() {
    while (position_ < text_.size() && std::string_view(" \t\r\n").find(text_[position_]) != std::string_view::npos)
      ++position_;
  }

  char peek() {
    skip_space();
    if (position_ >= text_.size()) fail("it ends too early");
    return text_[position_];
  }

  void expect(char wanted) {
    if (peek() != wanted) fail(std::string("expected '") + wanted + "'");
    ++position_;
  }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++position_;
    return true;
  }

  void word(std::string_view wanted) {
    if (text_.substr(position_, wanted.size()) != wanted) fail("unknown word");
    position_ += wanted.size();
  }

  Json value(const std::string& path, int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    Json result;
    result.path_ = path;
    switch (peek()) {
      case '{': result.value_ = object(path, depth); break;
      case '[': result.value_ = array(path, depth); break;
      case '"': result.value_ = string(); break;
      case 't':
        word("true");
        result.value_ = true;
        break;
      case 'f':
        word("false");
        result.value_ = false;
        break;
      case 'n':
        word("null");
        result.value_ = nullptr;
        break;
      default: result.value_ = number();
    }
    return result;
  }

  Json::Object object(const std::string& path, int depth) {
    Json::Object result;
    expect('{');
    if (take('}')) return result;
    do {
      if (peek() != '"') fail("expected a key");
      std::string key = string();
      expect(':');
      Json item = value(path + "." + key, depth + 1);
      if (!result.emplace(std::move(key), std::move(item)).second) fail("a key appears twice");
    } while (take(','));
    expect('}');
    return result;
  }

  Json::Array array(const std::string& path, int depth) {
    Json::Array result;
    expect('[');
    if (take(']')) return result;
    do {
      result.push_back(value(path + "[]", depth + 1));
    } while (take(','));
    expect(']');
    return result;
  }

  // JSON is stricter than from_chars: no leading '+' or zeros, no "inf", no hexadecimal.
  double number() {
    const char* begin = text_.data() + position_;
    const char* end = text_.data() + text_.size();
    const char* digits = begin < end && *begin == '-' ? begin + 1 : begin;
    if (digits == end || *digits < '0' || *digits > '9') fail("expected a value");
    if (*digits == '0' && digits + 1 < end && digits[1] >= '0' && digits[1] <= '9') fail("a number starts with 0");
    double result = 0;
    const auto [stop, error] = std::from_chars(begin, end, result);
    if (error != std::errc() || stop[-1] == '.') fail("not a number that fits");
    position_ += static_cast<std::size_t>(stop - begin);
    return result;
  }

  unsigned hex4() {
    unsigned result = 0;
    if (text_.size() - position_ < 4) fail("an escape ends too early");
    const char* begin = text_.data() + position_;
    const auto [stop, error] = std::from_chars(begin, begin + 4, result, 16);
    if (error != std::errc() || stop != begin + 4) fail("not a hexadecimal escape");
    position_ += 4;
    return result;
  }

  void append_code_point(std::string& out) {
    unsigned code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(position_, 2) != "\\u") fail("half a surrogate pair");
      position_ += 2;
      const unsigned low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      fail("half a surrogate pair");
    }
    const auto put = [&out](unsigned byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)),
          put(0x80 | (code & 0x3F));
    }
  }

  std::string string() {
    std::string result;
    expect('"');
    while (true) {
      if (position_ >= text_.size()) fail("a string has no end");
      const char c = text_[position_++];
      if (c == '"') return result;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        result.push_back(c);
        continue;
      }
      if (position_ >= text_.size()) fail("a string has no end");
      const char escape = text_[position_++];
      constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
      if (escape == 'u') {
        append_code_point(result);
      } else if (const auto index = kNames.find(escape); index != std::string_view::npos) {
        result.push_back(kValues[index]);
      } else {
        fail("unknown escape");
      }
    }
  }

  std::string_view text_;
  const std::string& what_;
  std::size_t position_ = 0;
};

Json Json::parse(std::string_view text, const std::string& what) { return JsonReader(text, what).document(); }

namespace {

template <typename T, typename Value>
const T& typed(const Value& value, const std::string& path, const char* expected) {
  const T* result = std::get_if<T>(&value);
  if (result == nullptr) throw Error(path + " is not " + expected);
  return *result;
}

}  // namespace

const Json::Array& Json::array() const { return typed<Array>(value_, path_, "a list"); }
const Json::Object& Json::object() const { return typed<Object>(value_, path_, "an object"); }
const std::string& Json::string() const { return typed<std::string>(value_, path_, "a text"); }
double Json::number() const { return typed<double>(value_, path_, "a number"); }

std::int64_t Json::integer() const {
  const double result = number();
  if (result != std::floor(result) || std::abs(result) > 9007199254740992.0)
    throw Error(path_ + " is not a whole number");
  return static_cast<std::int64_t>(result);
}

const Json* Json::find(const std::string& key) const {
  const auto found = object().find(key);
  return found == object().end() ? nullptr : &found->second;
}

const Json& Json::at(const std::string& key) const {
  const Json* result = find(key);
  if (result == nullptr) throw Error(path_ + "." + key + " is missing");
  return *result;
}

}  // namespace segnets
