// Colours and cursor movements of programs: a page is no terminal.
const ESCAPES = /\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

export const plain = (text) => text.replace(ESCAPES, "");
