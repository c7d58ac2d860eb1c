export { createTestNotika, type TestNotika, type TestOptions, type TestRun, type TestStep } from "./test_notika.ts";
